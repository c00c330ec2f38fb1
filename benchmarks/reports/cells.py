"""How a number and its interval are written, in every table and picture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from resnetrt.benchmarks.measure.latency import BASELINE, IN_PLACE, SUBSTITUTE, baseline_of
from resnetrt.benchmarks.measure.timing import CONFIDENCE

UNKNOWN = "-"
_BASELINES = {
    BASELINE: ("eager FP32", "x eager"),
    SUBSTITUTE: ("the FP32 file in ONNX Runtime", "x FP32 file"),
    None: ("a baseline", "x baseline"),
}


def baseline_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the times of `rows` are divided by, in a sentence."""
    return _BASELINES[baseline_of(row["engine"] for row in rows)][0]


def factor_heading(rows: Iterable[Mapping[str, Any]]) -> str:
    """The heading of a column of `times_faster`; an engine is never called faster than eager if eager was not timed."""
    return _BASELINES[baseline_of(row["engine"] for row in rows)][1]


def format_ms(value: float | None) -> str:
    """Milliseconds with three significant digits, all digits before the point."""
    if value is None:
        return UNKNOWN
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:.0f}"


def few_rounds(row: Mapping[str, Any]) -> str:
    """The text after a row's interval: the confidence that its rounds allow, or nothing if that is 95 %."""
    confidence = row.get("ci_confidence")
    return "" if confidence is None or confidence >= CONFIDENCE else f" ({100 * confidence:.0f} %)"


def format_number(value: float | None, digits: int) -> str:
    """`value` with `digits` digits after the decimal point."""
    return UNKNOWN if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.00"


def with_interval(text: str, interval: Sequence[float] | None, form: Callable[[float], str]) -> str:
    """`text` and its interval, if it has one."""
    return text if interval is None else f"{text} [{form(interval[0])}, {form(interval[1])}]"


def format_drop(drop: float | None, interval: Sequence[float] | None) -> str:
    """A drop in percentage points and its interval."""
    if interval is None:
        return format_number(drop, 2)
    return f"{format_number(drop, 2)} [{format_number(interval[0], 2)}, {format_number(interval[1], 2)}]"


def format_size(size_bytes: int | None) -> str:
    """Megabytes, or kilobytes below one."""
    if size_bytes is None:
        return UNKNOWN
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


_WITHOUT_TRANSFERS = (
    f"ENGINE{IN_PLACE}: the same engine without transfers. Its images lie on the GPU already, and the outputs stay "
    "there. It is compared with cells of its kind only; the baseline's data lies on the host, so it has no factor."
)
CONTEXTS_HEADER = ("network", "engine", "batch", "contexts", "images a second", "95 % interval", "x one context")


def contexts_cells(row: Mapping[str, Any]) -> Sequence[str]:
    """A row of `contexts[]` for a table."""
    low, high = row["images_per_s_ci"]
    factor = with_interval(format_number(row["times_one"], 2), row["times_one_ci"], lambda value: f"{value:.2f}")
    return (
        row["network"],
        row["engine"] + (" *" if row["disturbed"] else ""),
        str(row["batch"]),
        str(row["contexts"]),
        f"{row['images_per_s']:.0f}",
        f"{low:.0f} to {high:.0f}{few_rounds(row)}",
        factor,
    )


def about_names(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the names of cells without transfers mean, if there are such."""
    return _WITHOUT_TRANSFERS if any(row["engine"].endswith(IN_PLACE) for row in rows) else ""
