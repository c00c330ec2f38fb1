"""The depth lab's task: networks with their engines, and what to measure of each."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.depth.bench_record import Conditions, Content, LabRequest
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.bundle import COMPILE, Bundle
from resnetrt.conditions import conditions
from resnetrt.errors import UsageError
from resnetrt.export.engines.here import engines_here
from resnetrt.golden import FILE as GOLDEN
from resnetrt.runtime.cuda import chosen_device
from resnetrt.settings import read_settings


@dataclass(frozen=True)
class Subject:
    """A network to measure and its engines; the lines of `left_out` say what is not measured and why.

    `frame_engines` are versions of the engines that take uint8 frames; they are measured end to end only.
    """

    bundle: Bundle
    engines: Sequence[str]
    left_out: Sequence[str] = ()
    frame_engines: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The network's name."""
        return self.bundle.manifest.name

    def content(self) -> Content:
        """Short hashes of all files that take part in the timing, and the preprocessing."""
        manifest = self.bundle.manifest
        engines = (manifest.engines[name].file for name in (*self.engines, *self.frame_engines))
        reference = [manifest.variants["fp32"].file] if "fp32" in manifest.variants else []
        names = sorted({*reference, GOLDEN, *engines})
        hashes = {name: manifest.files[name].sha256[:12] for name in names}
        return hashes | {"preprocessing": manifest.preprocessing.to_json()}


@dataclass(frozen=True)
class LabOptions:
    """What to measure of every network. `budget_s` covers latency, end to end and memory; None is no limit.

    What does not fit the budget is left out and reported. Peaks, bundles and peer models are made outside the budget.
    `peers` is the folder where models of peers are kept; None measures no peer but eager. `contexts` are how many of an
    engine run side by side for its throughput, none measures no throughput.
    """

    batches: Sequence[int] = (1, 8)
    threads: int = 2
    rounds: int = 11
    budget_s: float | None = None
    peers: Path | None = None
    end_to_end: bool = True
    memory: bool = True
    profile: str | None = None
    contexts: Sequence[int] = ()

    def __post_init__(self) -> None:
        if any(count < 1 for count in self.contexts):
            raise UsageError(f"--contexts: expected positive numbers, found {min(self.contexts)}")

    def schedule(self, share_s: float | None) -> Schedule:
        """Rounds for one group of cells; a group that has not settled may take three times as many."""
        return Schedule(rounds=self.rounds, max_rounds=3 * self.rounds, budget_s=share_s)

    def check_profile(self, subjects: Sequence[Subject]) -> None:
        """Raise `UsageError` if layer times are requested for an engine that no subject has."""
        known = {engine for subject in subjects for engine in subject.engines}
        if self.end_to_end:
            known |= {engine for subject in subjects for engine in subject.frame_engines}
        if self.profile is not None and self.profile not in known:
            raise UsageError.unknown("engine of --profile", self.profile, known)

    def weights(self, subject: Subject) -> list[float]:
        """The weight of each group of cells, roughly in seconds, in the order of measuring.

        Blocks and the start of a process have a minimum length; the rest grows with the network and the batch.
        """
        files = subject.bundle.manifest.files
        size = max(record.size_bytes for name, record in files.items() if name.endswith(".onnx")) / 1e6
        latency = [15 + 0.025 * size * (1 + batch) for batch in self.batches]
        throughput = [len(subject.engines) * (len(self.contexts) + 1) * 3.0 for _ in self.batches if self.contexts]
        return latency + throughput + self.end_to_end * [30 + 0.1 * size] + self.memory * [8 + 0.05 * size]


def request_of(subjects: Sequence[Subject], options: LabOptions) -> LabRequest:
    """The request of a run, as stored in the record; a different request is a different run."""
    request: LabRequest = {
        "engines": {subject.name: [*subject.engines, *subject.frame_engines] for subject in subjects},
        "content": {subject.name: subject.content() for subject in subjects},
        "batches": list(options.batches),
        "rounds": options.rounds,
        "peers": options.peers is not None,
        "end_to_end": options.end_to_end,
        "memory": options.memory,
        "profile": options.profile,
    }
    if options.contexts:  # runs of earlier versions know none
        request["contexts"] = list(options.contexts)
    return request


def lab_conditions(options: LabOptions) -> Conditions:
    """The machine and versions, the cores that this process is bound to, and how the run measured.

    With `device` if a GPU is chosen: a run on another one is another run.
    """
    schedule = asdict(options.schedule(options.budget_s))
    pinned: dict[str, Any] = {"cpus": sorted(os.sched_getaffinity(0)), "threads": options.threads}
    if read_settings().device and (chosen := chosen_device("bench")):
        pinned["device"] = str(chosen)
    return conditions() | pinned | {"schedule": schedule}


def bundle_subject(bundle: Bundle, precisions: Sequence[str], backends: Sequence[str]) -> Subject:
    """The engines of a user's bundle for the wanted precisions and backends (empty: all) that can run here.

    Raises `UsageError` if there is none, `BackendMissing` if none can run here.
    """

    def is_wanted(name: str) -> bool:
        record = bundle.read_engine(name)
        return (not precisions or record.precision in precisions) and (not backends or record.backend in backends)

    wanted = [name for name in sorted(bundle.manifest.engines) if is_wanted(name)]
    if not wanted:
        known = ", ".join(sorted(bundle.manifest.engines)) or f"none; make one with: {COMPILE}"
        raise UsageError(f"bench {bundle.path}: no engine at the wanted precisions and backends; it has {known}")
    engines, elsewhere = engines_here(bundle, wanted)
    return Subject(bundle, engines, [f"{name}: {why}" for name, why in elsewhere.items()])
