"""Time against accuracy of a search's trials, measured side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from resnetrt.benchmarks.accuracy.gate import PASS
from resnetrt.benchmarks.accuracy.gate_rows import GateRow
from resnetrt.benchmarks.measure.timing import Schedule, Timing, ratio
from resnetrt.benchmarks.search.strategy import Mix
from resnetrt.benchmarks.search.trial_engines import TrialEngines


class PointAccuracy(TypedDict):
    """The gate on the search images; no interval for FP32 itself."""

    n: int
    top1: float
    drop_pp: float
    drop_ci_pp: list[float] | None
    verdict: str | None


class PointTime(TypedDict):
    """Which blocks a variant keeps, and its time."""

    engine: str
    kept: list[str]
    kept_precision: str
    precision: str
    median_ms: float
    ci_ms: list[float]
    rounds: int


class FrontPoint(PointAccuracy, PointTime):
    """A variant in the plane of time and accuracy."""


class FrontRow(FrontPoint):
    """A row of `front[]` of `search`; `pareto` if no other is better."""

    pareto: bool
    times_faster: float | None
    batch: int
    times_faster_ci: list[float] | None


def measure_front(
    engines: TrialEngines, trials: Mapping[Mix, GateRow], schedule: Schedule, check: Callable[[], None]
) -> list[FrontRow]:
    """Every trial and FP32 with its time, and whether nothing else is better; `check` may raise between engines."""
    mixes = {engines.label(mix): mix for mix in trials}
    everything = Mix(frozenset(block.name for block in engines.blocks))
    image = np.zeros((1, *engines.bundle.manifest.input.shape), np.float32)
    timings = engines.time({**mixes, "fp32": everything}, image, schedule, check)
    points: list[FrontPoint] = [
        {**_accuracy(row), **_row(row.engine, mix, timings[engines.label(mix)])} for mix, row in trials.items()
    ]
    if "fp32" not in mixes:
        first = next(iter(trials.values())).accuracy
        same: PointAccuracy = {
            "n": first.n,
            "top1": first.fp32_top1,
            "drop_pp": 0.0,
            "drop_ci_pp": None,
            "verdict": PASS,
        }
        points.append({**same, **_row("fp32", everything, timings["fp32"])})
    rows: list[FrontRow] = []
    for point, optimal in zip(points, pareto(points), strict=True):
        faster = ratio(timings["fp32"], timings[point["engine"]])
        row: FrontRow = {
            **point,
            "pareto": optimal,
            "times_faster": None if faster is None else faster.value,
            "batch": 1,
            "times_faster_ci": None if faster is None else [faster.low, faster.high],
        }
        rows.append(row)
    return rows


def pareto(rows: Sequence[FrontPoint]) -> list[bool]:
    """For each row, whether no other row is at least as good in both `median_ms` and `top1`, and better in one."""

    def beaten(row: FrontPoint) -> bool:
        return any(
            other["median_ms"] <= row["median_ms"]
            and other["top1"] >= row["top1"]
            and (other["median_ms"] < row["median_ms"] or other["top1"] > row["top1"])
            for other in rows
        )

    return [not beaten(row) for row in rows]


def _accuracy(row: GateRow) -> PointAccuracy:
    accuracy = row.accuracy
    return {
        "n": accuracy.n,
        "top1": accuracy.top1,
        "drop_pp": accuracy.drop_pp,
        "drop_ci_pp": list(accuracy.drop_ci_pp),
        "verdict": row.verdict,
    }


def _row(engine: str, mix: Mix, timing: Timing) -> PointTime:
    return {
        "engine": engine,
        "kept": sorted(mix.kept),
        "kept_precision": mix.precision,
        "precision": "fp32" if engine == "fp32" else "int8",
        "median_ms": timing.median_ms,
        "ci_ms": list(timing.ci_ms),
        "rounds": len(timing.round_medians_ms),
    }
