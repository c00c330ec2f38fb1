"""How close each cell comes to the machine's peak, and which limit it meets: arithmetic or memory.

The roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009), layer by layer: a layer takes at least the time of
its operations at the peak, and at least the time of its memory traffic at the rate of a copy. Traffic assumes that
nothing stays in a cache between layers: weights are read once, outputs written once and read once. Caches can beat
this, so a cell may take less than its `floor_ms`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from resnetrt.benchmarks.measure.latency import CPU, WatchedRow

if TYPE_CHECKING:
    from resnetrt.benchmarks.measure.peaks import Peaks
    from resnetrt.models import Cost
    from resnetrt.models.cost import LayerCost

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


class RooflineColumns(TypedDict):
    """What the roofline model says of a cell; None where it is unknown."""

    gmacs: float | None
    gops: float | None
    ops_per_byte: float | None
    percent_of_peak: float | None
    floor_ms: float | None
    percent_of_floor: float | None
    memory_percent: float | None
    limit: str | None


class ResultRow(WatchedRow, RooflineColumns):
    """A row of `results[]` of `bench`."""


class Roofs(TypedDict):
    """The peaks of one device."""

    best: dict[str, float]
    copy_gb_s: float | None


def layer_bytes(layer: "LayerCost", precision: str, batch: int) -> int:
    """Bytes of one batch: weights once, outputs twice."""
    return ELEMENT_BYTES[precision] * (layer.parameters + 2 * batch * _size(layer.output_shape))


def annotate(rows: Iterable[WatchedRow], costs: Mapping[str, "Cost"], peaks: "Peaks") -> list[ResultRow]:
    """Each row with its rate (`gops`), the percentage of the peak, and the `limit` that it meets; None if unknown.

    `floor_ms` is the minimum time by the roofline of each layer. `memory_percent` is the part of it spent in layers
    whose traffic takes longer than their arithmetic; `limit` is `memory` if that is more than half. A GPU's cells are
    compared with the peaks under `gpu`, and with nothing where that is missing.
    """
    return [{**row, **_judge(row, costs.get(row["network"]), peaks)} for row in rows]


def roofs(peaks: "Peaks", device: str) -> Roofs:
    """The peaks of a row's device; those of the CPU say nothing about a GPU's cells."""
    if device == CPU:
        return {"best": peaks["best"], "copy_gb_s": peaks["copy_gb_s"]}
    if "gpu" not in peaks:
        return {"best": {}, "copy_gb_s": None}
    return {"best": peaks["gpu"]["best"], "copy_gb_s": peaks["gpu"]["copy_gb_s"]}


def _judge(row: WatchedRow, cost: "Cost | None", peaks: "Peaks") -> RooflineColumns:
    columns: RooflineColumns = {
        "gmacs": None,
        "gops": None,
        "ops_per_byte": None,
        "percent_of_peak": None,
        "floor_ms": None,
        "percent_of_floor": None,
        "memory_percent": None,
        "limit": None,
    }
    if cost is None:
        return columns
    operations = 2 * cost.macs * row["batch"]
    gops = operations / row["median_ms"] / 1e6
    columns["gmacs"], columns["gops"] = cost.gmacs, gops
    own = roofs(peaks, row.get("device", CPU))
    peak = own["best"].get(row["precision"])
    if peak is None or own["copy_gb_s"] is None or row["precision"] not in ELEMENT_BYTES:
        return columns
    traffic = [layer_bytes(layer, row["precision"], row["batch"]) for layer in cost.layers]
    arithmetic_ms = [2e-6 * layer.macs * row["batch"] / peak for layer in cost.layers]
    memory_ms = [1e-6 * moved / own["copy_gb_s"] for moved in traffic]
    floor_ms = sum(map(max, arithmetic_ms, memory_ms))
    bound_ms = sum(moving for moving, computing in zip(memory_ms, arithmetic_ms, strict=True) if moving > computing)
    return {
        **columns,
        "ops_per_byte": operations / sum(traffic),
        "percent_of_peak": 100 * gops / peak,
        "floor_ms": floor_ms,
        "percent_of_floor": 100 * floor_ms / row["median_ms"],
        "memory_percent": 100 * bound_ms / floor_ms,
        "limit": "memory" if bound_ms > floor_ms / 2 else "arithmetic",
    }


def _size(shape: Sequence[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size
