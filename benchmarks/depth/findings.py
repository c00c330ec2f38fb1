"""What the depth lab has measured so far: written as the record of a run, and read back from an interrupted one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resnetrt.benchmarks.depth.baselines import against_peers
from resnetrt.benchmarks.depth.fit import break_even, fit_all
from resnetrt.benchmarks.depth.shares import Parts, Shares
from resnetrt.benchmarks.measure.roofline import annotate

if TYPE_CHECKING:
    from resnetrt.models import Cost

Row = dict[str, Any]
_LISTS = ("results", "contexts", "models", "end_to_end", "memory", "noise", "layers", "overhead", "left_out")
SPENT = ": the budget was spent"


@dataclass
class Findings:
    """Everything measured so far."""

    results: list[Row] = field(default_factory=list)
    contexts: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)
    end_to_end: list[Row] = field(default_factory=list)
    memory: list[Row] = field(default_factory=list)
    noise: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    overhead: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    parts: Parts = field(default_factory=Parts)
    costs: dict[str, "Cost"] = field(default_factory=dict)
    peaks: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Findings":
        """The findings of an interrupted run, to be continued; what its budget left out is open again."""
        findings = cls(peaks=dict(record["peaks"]))
        for name in _LISTS:
            setattr(findings, name, list(record.get(name, ())))
        findings.left_out = [line for line in findings.left_out if not line.endswith(SPENT)]
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

    def record(self, seconds: float, complete: bool) -> Row:
        """All that was measured and what follows from it, without the conditions."""
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
