"""What a bench run says, in sentences."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnetrt.benchmarks.latency import BASELINE

Record = Mapping[str, Any]
Row = Mapping[str, Any]


def conclusions(record: Record) -> list[str]:
    """Fastest engine, what depth costs, where INT8 pays, how far from the limit, and whether the run was quiet."""
    return [*_unfinished(record), *_fastest(record), *_int8(record), *_limit(record), *_noise(record)]


def _unfinished(record: Record) -> Iterator[str]:
    if record.get("complete") is False:
        yield "INTERRUPTED: only what was measured until then is shown."


def _fastest(record: Record) -> Iterator[str]:
    """The engine with the largest geometric mean of times faster than eager, at each batch."""
    for batch, rows in _by_batch(record["results"]):
        gains: dict[str, list[float]] = {}
        for row in rows:
            if row["times_faster"] and row["engine"] != BASELINE:
                gains.setdefault(row["engine"], []).append(row["times_faster"])
        if gains:
            means = {engine: math.prod(values) ** (1 / len(values)) for engine, values in gains.items()}
            best = max(means, key=lambda engine: means[engine])
            over = f", geometric mean over {len(gains[best])} networks" if len(gains[best]) > 1 else ""
            yield f"Batch {batch}: {best} is fastest, {means[best]:.1f} times as fast as eager FP32{over}."
            yield from _fit(record, best, batch)


def _fit(record: Record, engine: str, batch: int) -> Iterator[str]:
    for fit in record.get("fits", ()):
        if (fit["engine"], fit["batch"]) != (engine, batch):
            continue
        worst = max(fit["residual_percent"], key=lambda name: abs(fit["residual_percent"][name]))
        yield (
            f"{fit['engine']}, batch {fit['batch']}: {fit['fixed_ms']:.2f} ms + {fit['ms_per_gmac']:.3f} ms a GMAC; "
            f"furthest from that line is {worst}, {fit['residual_percent'][worst]:+.0f} %."
        )


def _int8(record: Record) -> Iterator[str]:
    for found in record.get("break_even", ()):
        where = f"{found['backend']}, batch {found['batch']}"
        depths = [point["depth"] for point in found["curve"]]
        if found["pays_from_depth"] is None:
            yield f"{where}: INT8 does not pay at depth {_list(depths)}."
            continue
        gain = [p["times_faster"] for p in found["curve"] if p["depth"] >= found["pays_from_depth"]]
        extent = "at every measured depth" if found["always"] else f"from depth {found['pays_from_depth']} on"
        several = f"{min(gain):.1f} to {max(gain):.1f}" if len(gain) > 1 else f"{gain[0]:.1f}"
        yield f"{where}: INT8 pays {extent}, {several} times as fast as FP32."


def _limit(record: Record) -> Iterator[str]:
    rows = [row for row in record["results"] if row.get("percent_of_peak")]
    if rows:
        best = max(rows, key=lambda row: row["percent_of_peak"])
        yield (
            f"Closest to the limit: {best['network']} {best['engine']} at batch {best['batch']} reaches "
            f"{best['gops']:.0f} GOPS, {best['percent_of_peak']:.0f} % of the {best['precision']} matrix products "
            f"measured in this run; by traffic without caches its limit is {best['limit']}."
        )


def _noise(record: Record) -> Iterator[str]:
    blocks = record.get("noise", ())
    marked = [block for block in blocks if block["disturbed"]]
    if marked:
        reasons = {f"{block['network']} batch {block['batch']}: {', '.join(block['reasons'])}" for block in marked}
        yield f"DISTURBED: {len(marked)} of {len(blocks)} blocks; {'; '.join(sorted(reasons))}."
    elif blocks:
        yield "The machine was quiet in every block."


def _by_batch(rows: Sequence[Row]) -> Iterator[tuple[int, list[Row]]]:
    for batch in sorted({row["batch"] for row in rows}):
        yield batch, [row for row in rows if row["batch"] == batch]


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
