"""`bench.json` as types: what the lab measured, what follows from it, and what further runs and LoadGen add.

Files of earlier versions may lack fields, so readers take the newer ones with `get`.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from resnetrt.benchmarks.depth.baselines import RivalRow
from resnetrt.benchmarks.depth.fit import CrossingRow, FitRow
from resnetrt.benchmarks.load.contexts import WatchedContextsRow
from resnetrt.benchmarks.load.loadgen import LoadgenRow
from resnetrt.benchmarks.measure.end_to_end import PathRow
from resnetrt.benchmarks.measure.memory import MemoryRow
from resnetrt.benchmarks.measure.noise import NoiseRow
from resnetrt.benchmarks.measure.overhead import OverheadRow
from resnetrt.benchmarks.measure.peaks import Peaks
from resnetrt.benchmarks.measure.roofline import ResultRow

Conditions = Mapping[str, Any]  # the machine says what is in them: `conditions.conditions`
Content = Mapping[str, Any]  # short hashes by file, and the preprocessing


class NetworkRow(TypedDict):
    """A network of the run, and its size where the eager module tells it."""

    name: str
    depth: int | None
    parameters: int | None
    gmacs: float | None


class LayerTimeRow(TypedDict):
    """The time of one layer, as `runtime.session.LayerTime`."""

    name: str
    op: str
    ms: float
    precision: str


class ProfileRow(TypedDict):
    """The layers of one engine."""

    network: str
    engine: str
    batch: int
    layers: list[LayerTimeRow]


class FindingsRecord(TypedDict):
    """All that was measured, and what follows from it."""

    complete: bool
    seconds: float
    seconds_by_part: dict[str, float]
    disturbed: bool
    models: list[NetworkRow]
    results: list[ResultRow]
    contexts: list[WatchedContextsRow]
    peaks: Peaks
    fits: list[FitRow]
    break_even: list[CrossingRow]
    against_peers: list[RivalRow]
    end_to_end: list[PathRow]
    memory: list[MemoryRow]
    overhead: list[OverheadRow]
    layers: list[ProfileRow]
    noise: list[NoiseRow]
    left_out: list[str]


class _Request(TypedDict):
    engines: dict[str, list[str]]
    content: dict[str, Content]
    batches: list[int]
    rounds: int
    peers: bool
    end_to_end: bool
    memory: bool
    profile: str | None


class LabRequest(_Request, total=False):
    """What was asked for; runs of earlier versions know no contexts."""

    contexts: list[int]


class LabRecord(FindingsRecord):
    """The record of one run of the lab."""

    schema_version: int
    conditions: Conditions
    request: LabRequest


class ComparedRow(TypedDict):
    """What a comparison needs of a row of `results[]`."""

    network: str
    engine: str
    batch: int
    threads: int
    round_medians_ms: list[float]
    disturbed: bool


class StoredRun(TypedDict):
    """A further run, made in a process of its own."""

    results: list[ComparedRow]
    noise: list[NoiseRow]
    conditions: Conditions


class CellRow(TypedDict):
    """The verdict on one cell, as `compare.regression.CellVerdict`."""

    network: str
    engine: str
    batch: int
    threads: int
    against: str
    verdict: str
    runs: tuple[int, int]
    disturbed: tuple[int, int]
    few_rounds: tuple[int, int]
    slowdown_percent: float | None
    ci_percent: tuple[float, float] | None
    spread_percent: float | None
    detectable_percent: float | None


class MachineRow(TypedDict):
    """The change of eager's own time: a statement about the machine."""

    network: str
    engine: str
    batch: int
    threads: int
    change_percent: float


class _Regression(TypedDict):
    verdict: str
    max_slowdown_percent: float
    cells: list[CellRow]
    only_old: list[str]
    only_new: list[str]
    machine: list[MachineRow]


class RegressionRecord(_Regression, total=False):
    """The regression check; `compared` says with what, once it is over."""

    compared: str


class _Bench(LabRecord):
    loadgen: list[LoadgenRow]


class BenchRecord(_Bench, total=False):
    """The whole `bench.json`. `runs` are further runs of this side, `other_runs` those of the other."""

    runs: list[StoredRun]
    other_runs: list[StoredRun]
    other_conditions: Conditions
    regression: RegressionRecord
    engines: list[Mapping[str, Any]]  # rows of `evaluate` that `report` puts beside one run
