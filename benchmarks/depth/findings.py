"""What the depth lab has measured so far: written as the record of a run, and read back from an interrupted one."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resnetrt.benchmarks.depth.baselines import against_peers
from resnetrt.benchmarks.depth.bench_record import FindingsRecord, LabRecord, NetworkRow, ProfileRow
from resnetrt.benchmarks.depth.fit import break_even, fit_all
from resnetrt.benchmarks.depth.shares import Parts, Shares
from resnetrt.benchmarks.load.contexts import WatchedContextsRow
from resnetrt.benchmarks.measure.end_to_end import PathRow
from resnetrt.benchmarks.measure.latency import WatchedRow
from resnetrt.benchmarks.measure.memory import MemoryRow
from resnetrt.benchmarks.measure.noise import NoiseRow
from resnetrt.benchmarks.measure.overhead import OverheadRow
from resnetrt.benchmarks.measure.peaks import Peaks
from resnetrt.benchmarks.measure.roofline import annotate

if TYPE_CHECKING:
    from resnetrt.models import Cost

SPENT = ": the budget was spent"


@dataclass
class Findings:
    """Everything measured so far."""

    results: list[WatchedRow] = field(default_factory=list)
    contexts: list[WatchedContextsRow] = field(default_factory=list)
    models: list[NetworkRow] = field(default_factory=list)
    end_to_end: list[PathRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    noise: list[NoiseRow] = field(default_factory=list)
    layers: list[ProfileRow] = field(default_factory=list)
    overhead: list[OverheadRow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    parts: Parts = field(default_factory=Parts)
    costs: dict[str, "Cost"] = field(default_factory=dict)
    peaks: Peaks | None = None

    @classmethod
    def of(cls, record: LabRecord) -> "Findings":
        """The findings of an interrupted run, to be continued; what its budget left out is open again."""
        findings = cls(
            results=list(record.get("results", ())),
            contexts=list(record.get("contexts", ())),
            models=list(record.get("models", ())),
            end_to_end=list(record.get("end_to_end", ())),
            memory=list(record.get("memory", ())),
            noise=list(record.get("noise", ())),
            layers=list(record.get("layers", ())),
            overhead=list(record.get("overhead", ())),
            left_out=[line for line in record.get("left_out", ()) if not line.endswith(SPENT)],
            peaks=record["peaks"],
        )
        findings.parts.seconds.update(record["seconds_by_part"])
        return findings

    def has_latency(self, network: str, batch: int) -> bool:
        """Whether the latency of these cells is measured."""
        return any((row["network"], row["batch"]) == (network, batch) for row in self.results)

    def has_contexts(self, network: str, batch: int) -> bool:
        """Whether the throughput of these engines is measured."""
        return any((row["network"], row["batch"]) == (network, batch) for row in self.contexts)

    def has_end_to_end(self, network: str) -> bool:
        """Whether these end-to-end paths are measured."""
        return any(row["network"] == network for row in self.end_to_end)

    def has_memory(self, network: str, engine: str) -> bool:
        """Whether the memory of this engine's process is measured."""
        return any((row["network"], row["engine"]) == (network, engine) for row in self.memory)

    def leave_out(self, *lines: str) -> None:
        """Note what is not measured and why; each line is kept once."""
        self.left_out += [line for line in dict.fromkeys(lines) if line not in self.left_out]

    def is_spent(self, what: str, *shares: Shares) -> bool:
        """Whether `what` must be left out because one of the budgets is spent; if so, it is noted."""
        spent = any(share.spent for share in shares)
        if spent:
            self.leave_out(f"{what}{SPENT}")
        return spent

    def record(self, seconds: float, complete: bool) -> FindingsRecord:
        """All that was measured and what follows from it, without the conditions; the peaks come first."""
        assert self.peaks is not None
        results = annotate(self.results, self.costs, self.peaks)
        return {
            "complete": complete,
            "seconds": seconds,
            "seconds_by_part": dict(self.parts.seconds),
            "disturbed": any(noise["disturbed"] for noise in self.noise),
            "models": self.models,
            "results": results,
            "contexts": self.contexts,
            "peaks": self.peaks,
            "fits": fit_all(results),
            "break_even": break_even(results),
            "against_peers": against_peers(results, self.end_to_end),
            "end_to_end": self.end_to_end,
            "memory": self.memory,
            "overhead": self.overhead,
            "layers": self.layers,
            "noise": self.noise,
            "left_out": self.left_out,
        }
