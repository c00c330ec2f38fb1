"""What depth costs: a line of time against GMACs for each engine, and the depth from which INT8 pays."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from resnetrt.benchmarks.timing import paired_ratio

Row = Mapping[str, Any]


def fit_all(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One fit per engine and batch with at least three networks of known cost."""
    found = []
    for (engine, batch), group in _grouped([row for row in rows if row.get("gmacs")], "engine", "batch"):
        if len({row["network"] for row in group}) >= 3:
            found.append({"engine": engine, "batch": batch, **fit_line(group)})
    return found


def fit_line(rows: Sequence[Row]) -> dict[str, Any]:
    """`ms = fixed_ms + ms_per_gmac * GMACs` of the batch, least squares of relative errors, with residuals in percent.

    Relative, because a millisecond is much on ResNet-18 and little on ResNet-152. A residual above zero is a network
    slower than its GMACs say.
    """
    work = np.array([row["gmacs"] * row["batch"] for row in rows])
    ms = np.array([row["median_ms"] for row in rows])
    design = np.column_stack([np.ones_like(work), work]) / ms[:, None]
    (fixed, slope), *_ = np.linalg.lstsq(design, np.ones_like(ms), rcond=None)
    residuals = 100 * (ms / (fixed + slope * work) - 1)
    return {
        "fixed_ms": float(fixed),
        "ms_per_gmac": float(slope),
        "residual_percent": {row["network"]: float(value) for row, value in zip(rows, residuals, strict=True)},
        "largest_residual_percent": float(np.abs(residuals).max()),
    }


def break_even(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per backend and batch: how many times faster INT8 is than FP32 at each depth, and the depth from which it pays.

    `pays_from_depth` is the smallest measured depth from which on the whole interval of the ratio, paired by rounds,
    is above one; None if there is none. `always` says that it is the shallowest measured. Depths of fewer than six
    rounds have no ratio: they stand in `few_rounds`, with their number. Engines that take frames have no FP32 partner.
    """
    found = []
    fitting = [row for row in rows if row["depth"] is not None and row.get("input") != "uint8"]
    known = [row for row in fitting if row["precision"] in ("fp32", "int8")]
    for (backend, batch), group in _grouped(known, "backend", "batch"):
        points = list(_curve(group))
        curve = [point for point in points if point["times_faster"] is not None]
        few = [{"depth": point["depth"], "rounds": point["rounds"]} for point in points if point not in curve]
        if points:
            paying = _paying(curve)
            depth = paying[0]["depth"] if paying else None
            found.append({
                "backend": backend,
                "batch": batch,
                "pays_from_depth": depth,
                "always": 0 < len(paying) == len(points),
                "curve": curve,
                "few_rounds": few,
            })  # fmt: skip
    return found


def _curve(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The ratio at each depth, shallowest first; None from few rounds."""
    for (depth, network), group in _grouped(rows, "depth", "network"):
        by_precision = {row["precision"]: row["round_medians_ms"] for row in group}
        if len(by_precision) == 2 and len(group) == 2:
            ratio = paired_ratio(by_precision["fp32"], by_precision["int8"])
            numbers = {"times_faster": ratio and ratio.value, "ci": ratio and [ratio.low, ratio.high]}
            yield {"depth": depth, "network": network, "rounds": len(by_precision["fp32"])} | numbers


def _paying(curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The deepest points of the curve that all lie above one."""
    start = len(curve)
    while start and curve[start - 1]["ci"][0] > 1:
        start -= 1
    return list(curve[start:])


def _grouped(rows: Sequence[Row], *keys: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in keys)

    for found, group in groupby(sorted(rows, key=key), key):
        yield found, list(group)
