"""A bench run as one HTML page: what follows from it, pictures, every cell, and details that are folded."""

from collections.abc import Iterable, Sequence
from html import escape

from resnetrt.benchmarks.depth.bench_record import BenchRecord, RegressionRecord
from resnetrt.benchmarks.load.loadgen import LoadgenRow
from resnetrt.benchmarks.measure.roofline import ResultRow
from resnetrt.benchmarks.reports.cells import (
    CONTEXTS_HEADER,
    about_names,
    baseline_words,
    condition_lines,
    contexts_cells,
    factor_heading,
    few_rounds,
    format_ms,
    format_number,
)
from resnetrt.benchmarks.reports.charts import draw_all, has_depths
from resnetrt.benchmarks.reports.conclusions import VERDICT_HEADER, conclusions, other_lines, verdict_cells
from resnetrt.benchmarks.reports.html_page import (
    Section,
    bullets,
    contents,
    definitions,
    page,
    small,
    table,
    write_section,
)
from resnetrt.benchmarks.reports.theme import themed_svg
from resnetrt.conditions import plural
from resnetrt.errors import BackendMissing

_FIRST = 3  # conclusions that are not folded
_CAPTIONS = {
    "depth": "Median latency against depth, one curve for each engine, with intervals",
    "int8": "How many times faster INT8 is than FP32 on the same backend, against depth",
    "roofline": "Operations a second against operations a byte, under the roofs measured in this run",
    "layers": "Time by layer of one engine",
    "pareto": "Top-1 accuracy against median latency",
}
_RESULTS = ("network", "engine", "batch", "n", "median ms", "95 % interval", "p90", "p99")
_ROOFLINE = ("GOPS", "% of peak", "% of floor", "limit")


_FITS = (
    "ms = fixed + slope x GMACs of the batch, fitted over the depths; residuals: what a network lies above the line."
)
_PEERS = (
    "Ratio: the fastest engine's time over the peer's, in the same run; below 1 is faster than the peer. From engine: "
    "alone, on float32 images. From frame and jpeg: with preprocessing."
)
_CONTEXTS = (
    "Several contexts of an engine side by side, each in a thread, with many batches a timed call. On a GPU they share "
    "the engine; on a CPU each is a session with its part of the threads."
)


def html_report(record: BenchRecord) -> str:
    """The whole page; without matplotlib it says so in place of the pictures."""
    return page(title(record), [f"<h1>{title(record)}</h1>", *run_parts(record)])


def title(record: BenchRecord) -> str:
    """What kind of run it is, as a heading."""
    return "Latency against depth" if has_depths(record) else "Latency of engines"


def run_parts(record: BenchRecord, prefix: str = "") -> list[str]:
    """Everything about one run, below its heading: what matters first, details folded; ids begin with `prefix`."""
    sections = {f"{prefix}{name}": section for name, section in _sections(record)}
    return [
        f'<p class="quiet">{escape(_where(record))}</p>',
        *_marks(record),
        contents(sections),
        *(write_section(name, section) for name, section in sections.items()),
    ]


def _sections(record: BenchRecord) -> Iterable[tuple[str, Section]]:
    pictures = _pictures(record)
    yield "says", Section("What it says", list(_findings(record)))
    if record.get("regression"):
        regression = record["regression"]
        others = other_lines(regression)
        body = [table(VERDICT_HEADER, map(verdict_cells, regression["cells"])), *([bullets(others)] if others else [])]
        yield "regression", Section(f"Against {_compared(regression)}", body)
    shown = [text for name, text in pictures.items() if not name.startswith("layers-")]
    if shown:
        yield "pictures", Section("Pictures", shown)
    yield "cells", Section("Every cell", _cells(record))
    layers = [text for name, text in pictures.items() if name.startswith("layers-")]
    folded = {
        "layers": ("Time by layer", layers),
        "fits": ("What depth costs", _fits(record)),
        "contexts": ("Throughput by contexts", _contexts(record)),
        "end-to-end": ("End to end", _end_to_end(record)),
        "peers": ("Against peers", _against_peers(record)),
        "memory": ("Memory and start", _memory(record)),
        "loadgen": ("LoadGen", _loadgen(record)),
    }
    for name, (heading, body) in folded.items():
        if body:
            yield name, Section(heading, body, folded=True)
    if record.get("left_out"):
        yield "left-out", Section("Left out", [bullets(record["left_out"])])
    yield "conditions", Section("Conditions", [definitions(condition_lines(record["conditions"]))])


def _findings(record: BenchRecord) -> Iterable[str]:
    """The first conclusions and the last, which says how quiet the machine was; the others folded."""
    said = conclusions(record)
    more = said[_FIRST:-1]
    yield bullets([*said[:_FIRST], *said[_FIRST:][-1:]])
    if more:
        yield f"<details><summary>{len(more)} more</summary>{bullets(more)}</details>"


def _where(record: BenchRecord) -> str:
    conditions = record["conditions"]
    minutes = f", {record['seconds'] / 60:.1f} minutes" if record.get("seconds") else ""
    threads, cores = conditions.get("threads"), conditions.get("cores")
    used = "threads unknown" if threads is None else plural(threads, "thread")
    on = "unknown cores" if cores is None else plural(cores, "core")
    return f"{conditions.get('cpu')}, {used} on {on}{minutes}"


def _marks(record: BenchRecord) -> Iterable[str]:
    if record.get("disturbed"):
        blocks = sum(noise["disturbed"] for noise in record["noise"])
        yield (
            f'<p class="mark"><strong>Disturbed run.</strong> In {blocks} of {len(record["noise"])} blocks something '
            "else used the machine; ratios within a block still hold better than times.</p>"
        )
    if record.get("regression"):
        regression = record["regression"]
        yield (
            f'<p class="mark"><strong>Regression check: {regression["verdict"]}</strong>, at most '
            f"{regression['max_slowdown_percent']:g} % slower than {escape(_compared(regression))}.</p>"
        )


def _pictures(record: BenchRecord) -> dict[str, str]:
    """Each picture twice, for a page and for a telephone: the page's style shows one of them."""
    try:
        wide, narrow = draw_all(record), draw_all(record, narrow=True)
    except BackendMissing as error:
        return {"none": f"<p>No pictures: {escape(str(error))}</p>"}
    return {
        name: "<figure>"
        + themed_svg(figure, name, _caption(name), "wide")
        + themed_svg(narrow[name], f"{name}-narrow", _caption(name), "narrow")
        + "</figure>"
        for name, figure in wide.items()
    }


def _caption(name: str) -> str:
    return _CAPTIONS[name.partition("-")[0]]


def _cells(record: BenchRecord) -> list[str]:
    factor, baseline = factor_heading(record["results"]), baseline_words(record["results"])
    return [
        table((*_RESULTS, factor, *_ROOFLINE), map(_result_cells, record["results"])),
        small(
            f"* measured while something else ran. {factor}: paired by rounds with {baseline} of the same run, "
            "from six rounds on. "
            "GOPS: two operations a multiply-accumulate. % of peak: of the matrix products measured in the "
            "same run. % of floor: the least time by arithmetic and memory, layer by layer, over the measured one; "
            "caches can beat it. Limit: what most of that least time is."
        ),
        *([small(words)] if (words := about_names(record["results"])) else []),
    ]


def _result_cells(row: ResultRow) -> Sequence[str]:
    low, high = row["ci_ms"]
    star = " *" if row.get("disturbed") else ""
    shares = (row.get("gops"), row.get("percent_of_peak"), row.get("percent_of_floor"))
    return (
        row["network"],
        row["engine"] + star,
        str(row["batch"]),
        str(row["n"]),
        format_ms(row["median_ms"]),
        f"{format_ms(low)} to {format_ms(high)}{few_rounds(row)}",
        format_ms(row["p90_ms"]),
        format_ms(row["p99_ms"]),
        format_number(row.get("times_faster"), 2),
        *(format_number(share, 0) for share in shares),
        row.get("limit") or "-",
    )


def _fits(record: BenchRecord) -> list[str]:
    rows = [
        (
            fit["engine"],
            str(fit["batch"]),
            f"{fit['fixed_ms']:.2f}",
            "{:.2f} to {:.2f}".format(*fit["fixed_ms_ci"]),
            f"{fit['ms_per_gmac']:.3f}",
            "{:.3f} to {:.3f}".format(*fit["ms_per_gmac_ci"]),
            ", ".join(f"{name} {value:+.0f}" for name, value in fit["residual_percent"].items()),
        )
        for fit in record.get("fits") or ()
    ]
    return _table(("engine", "batch", "fixed ms", "95 %", "ms a GMAC", "95 %", "residuals %"), rows, _FITS)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> list[str]:
    """A table and the small print below it; nothing without rows."""
    return [table(header, rows), *([small(note)] if note else [])] if rows else []


def _compared(regression: RegressionRecord) -> str:
    return str(regression.get("compared", "the earlier run"))


def _contexts(record: BenchRecord) -> list[str]:
    return _table(CONTEXTS_HEADER, [contexts_cells(row) for row in record.get("contexts") or ()], _CONTEXTS)


def _end_to_end(record: BenchRecord) -> list[str]:
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in record.get("end_to_end") or ():
        cells.setdefault((row["network"], row["engine"]), {})[row["source"]] = row["median_ms"]
    names = ("jpeg", "frame")
    rows = [(*key, *(format_ms(medians.get(name)) for name in names)) for key, medians in cells.items()]
    return _table(("network", "engine", "from a JPEG", "from a raw frame"), rows, "Median ms of one image, batch 1.")


def _against_peers(record: BenchRecord) -> list[str]:
    rows = [
        (
            row["network"],
            row["engine"],
            row["peer"],
            row["source"],
            str(row["batch"]),
            format_number(row["ratio"], 2),
            "-" if row["ratio_ci"] is None else f"{row['ratio_ci'][0]:.2f} to {row['ratio_ci'][1]:.2f}",
        )
        for row in record.get("against_peers") or ()
    ]
    header = ("network", "engine", "peer", "from", "batch", "ratio", "95 % interval")
    return _table(header, rows, _PEERS)


def _memory(record: BenchRecord) -> list[str]:
    rows = [
        (
            row["network"],
            row["engine"],
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['peak_rss_bytes'] / 1e6:.0f}",
            f"{row['load_and_selftest_ms']:.0f}",
            f"{row['start_to_first_ms']:.0f}",
        )
        for row in record.get("memory") or ()
    ]
    header = (
        "network",
        "engine",
        "file MB",
        "peak RSS MB",
        "load and self-test ms",
        "process start to first output ms",
    )
    return _table(header, rows, "Each engine in a process of its own, started for this.")


def _loadgen(record: BenchRecord) -> list[str]:
    rows = [
        (row["network"], row["engine"], row["label"], row["result"], _loadgen_number(row))
        for row in record.get("loadgen") or ()
    ]
    header = ("network", "engine", "scenario", "result", "number")
    return _table(header, rows, "Result not verified by MLCommons Association.")


def _loadgen_number(row: LoadgenRow) -> str:
    return "-" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
