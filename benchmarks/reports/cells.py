"""How a number, its interval and the conditions of a run are written, in every table and picture."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from resnetrt.benchmarks.load.contexts import WatchedContextsRow
from resnetrt.benchmarks.measure.latency import BASELINE, IN_PLACE, SUBSTITUTE, baseline_of
from resnetrt.benchmarks.measure.timing import CONFIDENCE, EngineTimingRow, TimingRow
from resnetrt.benchmarks.reports.accuracy import SummaryRow
from resnetrt.conditions import plural

UNKNOWN = "-"
# what `condition_lines` has words for
_SAID = ("cpu", "cores", "threads", "cpus", "system", "python", "board", "gpu", "versions", "revision", "schedule")
_BASELINES = {
    BASELINE: ("eager FP32", "x eager"),
    SUBSTITUTE: ("the FP32 file in ONNX Runtime", "x FP32 file"),
    None: ("a baseline", "x baseline"),
}


def baseline_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the times of `rows` are divided by, in a sentence."""
    return _BASELINES[baseline_of(row["engine"] for row in rows)][0]


def factor_heading(rows: Iterable[EngineTimingRow]) -> str:
    """The heading of a column of `times_faster`; an engine is never called faster than eager if eager was not timed."""
    return _BASELINES[baseline_of(row["engine"] for row in rows)][1]


def format_ms(value: float | None) -> str:
    """Milliseconds with three significant digits, all digits before the point."""
    if value is None:
        return UNKNOWN
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:.0f}"


def few_rounds(row: TimingRow | WatchedContextsRow | SummaryRow) -> str:
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


def contexts_cells(row: WatchedContextsRow) -> Sequence[str]:
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


def about_names(rows: Iterable[EngineTimingRow]) -> str:
    """What the names of cells without transfers mean, if there are such."""
    return _WITHOUT_TRANSFERS if any(row["engine"].endswith(IN_PLACE) for row in rows) else ""


def condition_lines(conditions: Mapping[str, Any]) -> dict[str, str]:
    """The conditions of a run of any version in words, for people: terms and their texts; other names are kept."""
    lines = {name: "; ".join(filter(None, text)) for name, text in _known(conditions)}
    lines |= {name.replace("_", " "): str(value) for name, value in conditions.items() if name not in _SAID}
    return {name: text for name, text in lines.items() if text}


def _known(conditions: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    board = conditions.get("board") or {}
    l4t = f"L4T {board['l4t']}" if board.get("l4t") else ""
    jetpack = f"JetPack {board['jetpack']}" if board.get("jetpack") else ""
    mode = f"power mode {board['power_mode']}" if board.get("power_mode") else ""
    yield "board", (board.get("model") or "", jetpack, l4t, mode)
    yield "processor", (str(conditions.get("cpu") or ""), *_cores(conditions))
    yield from _gpus(conditions.get("gpu") or {})
    yield "system", (str(conditions.get("system") or ""), *_labelled("Python", conditions.get("python")))
    versions = (conditions.get("versions") or {}).items()
    yield "versions", (", ".join(f"{name} {number}" for name, number in versions),)
    yield "source", _labelled("revision", conditions.get("revision"))
    yield "measured", tuple(_schedule(conditions.get("schedule") or {}))


def _labelled(label: str, value: object) -> tuple[str, ...]:
    return () if value is None else (f"{label} {value}",)


def _cores(conditions: Mapping[str, Any]) -> Iterator[str]:
    cores, cpus = conditions.get("cores"), conditions.get("cpus")
    if cores is not None:
        numbers = f" (numbers {', '.join(map(str, cpus))})" if cpus else ""
        yield f"{plural(cores, 'core')}{numbers} for this process"
    if conditions.get("threads") is not None:
        yield plural(conditions["threads"], "thread")


def _gpus(gpu: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    driver = _labelled("driver", gpu.get("driver")) + _labelled("CUDA", gpu.get("cuda"))
    devices, limits = gpu.get("devices") or (), gpu.get("limits") or ()
    for index, device in enumerate(devices):
        memory, limit = device.get("memory_bytes"), limits[index] if index < len(limits) else {}
        yield (
            "GPU" if len(devices) == 1 else f"GPU {index}",
            (
                str(device.get("name")),
                f"{memory / 1e9:.0f} GB" if memory else "",
                *_labelled("compute capability", device.get("compute_capability")),
                *driver,
                *_most("power", limit.get("power_limit_w"), "W"),
                *_most("SM clock", limit.get("sm_max_mhz"), "MHz"),
                *_most("memory clock", limit.get("memory_max_mhz"), "MHz"),
            ),
        )


def _most(label: str, value: float | None, unit: str) -> tuple[str, ...]:
    return () if value is None else (f"{label} at most {value:g} {unit}",)


def _schedule(schedule: Mapping[str, Any]) -> Iterator[str]:
    """The fields of `measure.timing.Schedule`."""
    if not schedule:
        return
    rounds, most = schedule.get("rounds"), schedule.get("max_rounds")
    yield f"{rounds} rounds{f', up to {most} while an engine has not settled' if most else ''}"
    calls, seconds = schedule.get("block_calls"), schedule.get("min_block_s")
    if calls is not None:
        yield f"blocks of {calls} calls"
    elif seconds is not None:
        yield f"blocks of {seconds:g} s"
    if schedule.get("warm_up_s") is not None and schedule.get("settle_s") is not None:
        yield f"untimed calls before: {schedule['warm_up_s']:g} s at first, {schedule['settle_s']:g} s in each block"
    if schedule.get("budget_s") is not None:
        yield f"budget {schedule['budget_s'] / 60:.1f} minutes"
