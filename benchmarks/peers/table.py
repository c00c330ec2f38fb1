"""The results as text: a table of everything, one of frames to logits, and one of calibration on more images."""

from collections.abc import Iterable, Sequence
from typing import Any

from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS, no_ratio
from resnetrt.benchmarks.peers.store import ResultStore


def render(results: ResultStore) -> str:
    """All tables, in Markdown. Ratios are to NNCF MIXED: paired, with the interval, then of the fastest rounds.

    With fewer than six rounds there is no paired ratio, and a line says so.
    """
    batches = sorted({row["batch"] for row in results.rows("latency")})
    times = [name for batch in batches for name in (f"ms, batch {batch}", "ratio")]
    head = ("network", "tool", "dialect", "engine", "SQNR dB", "flips %", "drop pp", *times, "calib s", "peak MB")
    parts = [_markdown(head, _main_rows(results, batches))]
    if frames := results.rows("frames"):
        head = ("network", "tool", "preprocessing", "batch", "ms", "ratio")
        parts.append("From a uint8 NHWC frame, OpenVINO:\n\n" + _markdown(head, map(_frame_row, frames)))
    if more := _more_images(results):
        head = ("network", "tool", "images", "calib s", "peak MB", "imports MB")
        parts.append("Calibration:\n\n" + _markdown(head, map(_calibration_row, more)))
    timed = [*results.rows("latency"), *results.rows("frames")]
    if few := [len(row["round_medians_ms"]) for row in timed if len(row["round_medians_ms"]) < ENOUGH_ROUNDS]:
        parts.append(no_ratio(min(few), "ask for at least six with --rounds"))
    if left_out := [line for group in results.groups.values() for line in group["left_out"]]:
        parts.append("Left out:\n\n" + "\n".join(f"- {line}" for line in dict.fromkeys(left_out)))
    return "\n\n".join(parts) + "\n"


def _main_rows(results: ResultStore, batches: Sequence[int]) -> Iterable[list[str]]:
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in results.rows("fidelity"):
        merged.setdefault((row["network"], row["tool"], row["backend"]), {}).update(row)
    for row in results.rows("latency"):
        cell = merged.setdefault((row["network"], row["tool"], row["backend"]), {})
        cell.update({key: row[key] for key in ("network", "tool", "dialect", "backend")})
        cell[f"batch{row['batch']}"] = row
    least: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results.rows("calibration"):
        best = least.setdefault((row["network"], row["tool"]), row)
        if row["samples"] < best["samples"]:
            least[row["network"], row["tool"]] = row
    for (network, tool, _), row in merged.items():
        yield _main_row(row, batches, least.get((network, tool)))


def _main_row(row: dict[str, Any], batches: Sequence[int], cost: dict[str, Any] | None) -> list[str]:
    drop, ci = row.get("drop_pp"), row.get("drop_ci_pp")
    return [
        row["network"],
        row["tool"],
        row["dialect"] or "-",
        row["backend"],
        _number(row.get("sqnr_db"), 1),
        _number(row.get("flips_percent"), 2),
        "-" if drop is None or ci is None else f"{drop:+.2f} [{ci[0]:+.2f}, {ci[1]:+.2f}]",
        *(text for batch in batches for text in _time(row.get(f"batch{batch}"))),
        _number(None if cost is None else cost["calibration_s"], 2),
        _megabytes(None if cost is None else cost["peak_rss_bytes"]),
    ]


def _time(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "-", "-"
    ci, median = row["ratio_ci"], _number(row["median_ms"], 3)
    few = len(row["round_medians_ms"]) < ENOUGH_ROUNDS
    return (
        median,
        "-" if ci is None or few else f"{row['ratio']:.3f} [{ci[0]:.3f}, {ci[1]:.3f}], {row['quiet_ratio']:.3f}",
    )


def _frame_row(row: dict[str, Any]) -> list[str]:
    return [row["network"], row["tool"], row["preprocessing"], str(row["batch"]), *_time(row)]


def _more_images(results: ResultStore) -> list[dict[str, Any]]:
    return sorted(results.rows("calibration"), key=lambda row: (row["network"], row["tool"], row["samples"]))


def _calibration_row(row: dict[str, Any]) -> list[str]:
    sizes = (_megabytes(row["peak_rss_bytes"]), _megabytes(row["imports_rss_bytes"]))
    return [row["network"], row["tool"], str(row["samples"]), _number(row["calibration_s"], 2), *sizes]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
