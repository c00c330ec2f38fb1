"""The cost of depth: a line of time against GMACs for each engine, and the depth from which INT8 pays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.measure.latency import HOST
from resnetrt.benchmarks.measure.roofline import ResultRow
from resnetrt.benchmarks.measure.timing import Ratio, paired_ratio
from resnetrt.benchmarks.stats.between_runs import CELL_OFFSET, ratio_interval, student_t

Floats = npt.NDArray[np.float64]


class LineRow(TypedDict):
    """A line of time against GMACs, with the intervals of its two numbers."""

    fixed_ms: float
    fixed_ms_ci: list[float]
    ms_per_gmac: float
    ms_per_gmac_ci: list[float]
    is_line: bool
    residual_percent: dict[str, float]
    largest_residual_percent: float


class FitRow(LineRow):
    """The line of one engine at one batch size."""

    engine: str
    batch: int


class RatioRow(TypedDict):
    """How many times faster INT8 is than FP32 at one depth."""

    depth: int
    network: str
    rounds: int
    times_faster: float
    ci: list[float]


class FewRoundsRow(TypedDict):
    """A depth with too few rounds for a ratio."""

    depth: int
    rounds: int


class CrossingRow(TypedDict):
    """From which depth on INT8 pays, on one backend at one batch size."""

    backend: str
    batch: int
    pays_from_depth: int | None
    always: bool
    curve: list[RatioRow]
    few_rounds: list[FewRoundsRow]
    offset_percent: float


@dataclass(frozen=True)
class _Point:
    """FP32 and INT8 at one depth; no ratio from too few rounds."""

    depth: int
    network: str
    rounds: int
    ratio: Ratio | None


def fit_all(rows: Sequence[ResultRow]) -> list[FitRow]:
    """One fit per engine and batch with at least three networks of known cost."""
    lines: list[FitRow] = []
    for (engine, batch), group in _grouped([row for row in rows if row.get("gmacs")], "engine", "batch"):
        if len({row["network"] for row in group}) >= 3:
            lines.append({"engine": engine, "batch": batch, **fit_line(group)})
    return lines


def fit_line(rows: Sequence[ResultRow]) -> LineRow:
    """`ms = fixed_ms + ms_per_gmac * GMACs` of the batch: least squares of relative errors, residuals in percent.

    Errors are relative because a millisecond is a lot for ResNet-18 and little for ResNet-152. A residual above zero
    means that a network is slower than its GMACs predict. Times can't be negative: if the unconstrained line has a
    negative intercept, `fixed_ms` is zero and the slope is that of the line through the origin. `fixed_ms_ci` and
    `ms_per_gmac_ci` are 95 % intervals of Student's t, from the residuals. `is_line` is False if even the upper end of
    the unconstrained intercept's interval is below zero: then time grows faster than GMACs.
    """
    work = np.array([row["gmacs"] for row in rows]) * np.array([row["batch"] for row in rows])
    ms = np.array([row["median_ms"] for row in rows])
    design = np.column_stack([np.ones_like(work), work]) / ms[:, None]
    (fixed, slope), errors, t = _least_squares(design)
    above = fixed + t * errors[0]
    fixed_ci = [max(0.0, fixed - t * errors[0]), max(0.0, above)]
    slope_ci = [slope - t * errors[1], slope + t * errors[1]]
    if fixed < 0:
        (slope,), (error,), t = _least_squares(design[:, 1:])
        # the intercept is zero or more, so the slope is at most that of a zero intercept
        fixed, slope_ci = 0.0, [min(slope_ci[0], slope - t * error), slope + t * error]
    residuals = 100 * (ms / (fixed + slope * work) - 1)
    return {
        "fixed_ms": float(fixed),
        "fixed_ms_ci": [float(value) for value in fixed_ci],
        "ms_per_gmac": float(slope),
        "ms_per_gmac_ci": [max(0.0, float(value)) for value in slope_ci],
        "is_line": bool(above >= -1e-9 * ms.min()),  # up to rounding
        "residual_percent": {row["network"]: float(value) for row, value in zip(rows, residuals, strict=True)},
        "largest_residual_percent": float(np.abs(residuals).max()),
    }


def _least_squares(design: npt.NDArray[np.float64]) -> tuple[Floats, Floats, float]:
    """The coefficients for which the rows sum to one, their standard errors, and the `t` of a 95 % interval."""
    ones, df = np.ones(len(design)), len(design) - design.shape[1]
    solution, *_ = np.linalg.lstsq(design, ones, rcond=None)
    variance = float(np.square(design @ solution - ones).sum()) / df
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    return solution.astype(np.float64), errors.astype(np.float64), student_t(0.025, df)


def break_even(rows: Sequence[ResultRow]) -> list[CrossingRow]:
    """Per backend and batch: the speed-up of INT8 over FP32 at each depth, and the depth from which INT8 pays.

    `pays_from_depth` is the smallest measured depth from which on the whole interval of the ratio is above one; None if
    there is none. `always` says that this is the shallowest measured depth. The intervals (`ci`) hold for all depths of
    a curve together with 95 %, also for another run: they allow each cell an offset of `offset_percent`. Depths with
    fewer than six rounds have no ratio and are listed in `few_rounds`, with their number of rounds. Engines that take
    frames have no FP32 partner; cells without transfers are not among it.
    """
    crossings: list[CrossingRow] = []
    fitting = [row for row in rows if row["depth"] is not None and row.get("input") != "uint8"]
    known = [row for row in fitting if row["precision"] in ("fp32", "int8") and row.get("data", HOST) == HOST]
    for (backend, batch), group in _grouped(known, "backend", "batch"):
        points = list(_points(group))
        ratios = [(point, point.ratio) for point in points if point.ratio is not None]
        curve = [_ratio_row(point, ratio, len(ratios)) for point, ratio in ratios]
        few: list[FewRoundsRow] = [
            {"depth": point.depth, "rounds": point.rounds} for point in points if point.ratio is None
        ]
        if points:
            paying = _paying(curve)
            depth = paying[0]["depth"] if paying else None
            crossings.append({
                "backend": backend,
                "batch": batch,
                "pays_from_depth": depth,
                "always": 0 < len(paying) == len(points),
                "curve": curve,
                "few_rounds": few,
                "offset_percent": 100 * CELL_OFFSET,
            })  # fmt: skip
    return crossings


def _points(rows: Sequence[ResultRow]) -> Iterator[_Point]:
    """The ratio at each depth, shallowest first."""
    for (depth, network), group in _grouped(rows, "depth", "network"):
        by_precision = {row["precision"]: row["round_medians_ms"] for row in group}
        if len(by_precision) == 2 and len(group) == 2:
            ratio = paired_ratio(by_precision["fp32"], by_precision["int8"])
            yield _Point(depth, network, len(by_precision["fp32"]), ratio)


def _ratio_row(point: _Point, ratio: Ratio, claims: int) -> RatioRow:
    return {
        "depth": point.depth,
        "network": point.network,
        "rounds": point.rounds,
        "times_faster": ratio.value,
        "ci": list(ratio_interval(ratio.value, ratio.low, ratio.high, claims=claims)),
    }


def _paying(curve: Sequence[RatioRow]) -> list[RatioRow]:
    """The deepest points of the curve, as far as all of them lie above one."""
    start = len(curve)
    while start and curve[start - 1]["ci"][0] > 1:
        start -= 1
    return list(curve[start:])


def _grouped(
    rows: Sequence[ResultRow], *keys: Literal["engine", "batch", "backend", "depth", "network"]
) -> Iterator[tuple[tuple[Any, ...], list[ResultRow]]]:
    def key(row: ResultRow) -> tuple[Any, ...]:
        return tuple(row[name] for name in keys)

    for values, group in groupby(sorted(rows, key=key), key):
        yield values, list(group)
