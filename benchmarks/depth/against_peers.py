"""The fastest engine of this project beside each peer of the same run: alone, from a frame, from a JPEG."""

from collections.abc import Iterator, Sequence
from typing import Any

from resnetrt.benchmarks.depth.baselines import PEERS
from resnetrt.benchmarks.measure.latency import BASELINE
from resnetrt.benchmarks.measure.timing import paired_ratio

Row = dict[str, Any]


def against_peers(results: Sequence[Row], end_to_end: Sequence[Row]) -> list[Row]:
    """One row for each network, batch, source and peer: the time of the fastest own engine over the peer's.

    `source` is `engine` for the engine alone, float32 images in, else where the path begins. `ratio` is the median of
    the rounds' ratios, below one where the own engine is faster; None from fewer than six `rounds`. Empty unless peers
    other than eager were timed.
    """
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in results:
        groups.setdefault((row["network"], row["batch"], "engine"), []).append(row)
    for row in end_to_end:
        groups.setdefault((row["network"], row["batch"], row["source"]), []).append(row)
    found = [row for key, rows in groups.items() for row in _compare(*key, rows)]
    return found if any(row["peer"] != BASELINE for row in found) else []


def _compare(network: str, batch: int, source: str, rows: Sequence[Row]) -> Iterator[Row]:
    own = [row for row in rows if row["engine"] not in PEERS]
    best = min(own, key=lambda row: float(row["median_ms"]), default=None)
    for peer in rows if best is not None else ():
        if peer["engine"] not in PEERS:
            continue
        assert best is not None
        found = paired_ratio(best["round_medians_ms"], peer["round_medians_ms"])
        names = {"network": network, "batch": batch, "source": source, "engine": best["engine"]}
        numbers = {"ratio": found and found.value, "ratio_ci": found and [found.low, found.high]}
        numbers |= {"rounds": len(best["round_medians_ms"])}
        yield names | {"peer": peer["engine"]} | numbers


def closest(rows: Sequence[Row]) -> list[Row]:
    """The row of the nearest peer for each network, batch and source that has a ratio."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["ratio"] is None:
            continue
        key = (row["network"], row["batch"], row["source"])
        if key not in found or row["ratio"] > found[key]["ratio"]:
            found[key] = row
    return list(found.values())
