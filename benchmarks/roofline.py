"""How close each cell is to what the machine reaches, and which limit it meets: arithmetic or memory.

Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009. Traffic is what must move if nothing stays in a cache between
layers: every weight read once, every layer's output written and read once. Caches beat it, so the memory limit is a
lower bound of what is attainable.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetrt.models import Cost

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
Row = dict[str, Any]


def traffic_bytes(cost: "Cost", precision: str, batch: int) -> int:
    """Bytes of one batch: weights once, outputs of all counted layers twice."""
    outputs = sum(_size(layer.output_shape) for layer in cost.layers)
    return ELEMENT_BYTES[precision] * (cost.parameters + 2 * batch * outputs)


def annotate(rows: Sequence[Row], costs: Mapping[str, "Cost"], peaks: Mapping[str, Any]) -> list[Row]:
    """Each row with what it reaches (`gops`), of which peak, and the `limit` it meets; None where unknown."""
    return [row | _judge(row, costs.get(row["network"]), peaks) for row in rows]


def _judge(row: Row, cost: "Cost | None", peaks: Mapping[str, Any]) -> Row:
    names = ("gmacs", "gops", "ops_per_byte", "attainable_gops", "percent_of_peak", "percent_of_attainable", "limit")
    found: Row = dict.fromkeys(names)
    if cost is None:
        return found
    operations = 2 * cost.macs * row["batch"]
    found |= {"gmacs": cost.gmacs, "gops": operations / row["median_ms"] / 1e6}
    peak = peaks["best"].get(row["precision"])
    if peak is None or row["precision"] not in ELEMENT_BYTES:
        return found
    intensity = operations / traffic_bytes(cost, row["precision"], row["batch"])
    by_memory = intensity * peaks["copy_gb_s"]
    attainable = min(peak, by_memory)
    return found | {
        "ops_per_byte": intensity,
        "attainable_gops": attainable,
        "percent_of_peak": 100 * found["gops"] / peak,
        "percent_of_attainable": 100 * found["gops"] / attainable,
        "limit": "arithmetic" if peak <= by_memory else "memory",
    }


def _size(shape: Sequence[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size
