"""A bench run as one HTML file: no network access, no scripts, light or dark like the reader's system."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from resnetrt.benchmarks.reports.cells import baseline_words, factor_heading, few_rounds, format_ms
from resnetrt.benchmarks.reports.charts import draw_all
from resnetrt.benchmarks.reports.conclusions import conclusions
from resnetrt.benchmarks.reports.slowdown_text import VERDICT_HEADER, other_lines, verdict_cells
from resnetrt.benchmarks.reports.theme import css, themed_svg
from resnetrt.errors import BackendMissing

Record = Mapping[str, Any]
_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1.5rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2rem 0 .6rem}
figure{margin:1rem 0;overflow-x:auto}figure svg{display:block;width:100%;height:auto;min-width:40rem;max-width:60rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .45rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
th{color:var(--other);font-weight:600}
.mark{border-left:4px solid var(--int8);padding:.4rem .8rem;margin:1rem 0}
small,.quiet{color:var(--other)}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.86rem}
dt{color:var(--other)}dd{margin:0;overflow-wrap:anywhere}
@media print{body{max-width:none}}
"""
_CAPTIONS = {
    "depth": "Median latency against depth, one curve for each engine, with intervals",
    "int8": "How many times faster INT8 is than FP32 on the same backend, against depth",
    "roofline": "Operations a second against operations a byte, under the roofs measured in this run",
    "layers": "Time by layer of one engine",
    "pareto": "Top-1 accuracy against median latency",
}
_RESULTS = ("network", "engine", "batch", "n", "median ms", "95 % interval", "p90", "p99")
_ROOFLINE = ("GOPS", "% of peak", "% of floor", "limit")


def html_report(record: Record) -> str:
    """The whole page; without matplotlib it says so in place of the pictures."""
    return page(title(record), [f"<h1>{title(record)}</h1>", *sections(record)])


def title(record: Record) -> str:
    """What kind of run it is, as a heading."""
    return "Latency against depth" if _has_depths(record) else "Latency of engines"


def sections(record: Record) -> list[str]:
    """Everything about one run, below its heading."""
    factor, baseline = factor_heading(record["results"]), baseline_words(record["results"])
    return [
        f'<p class="quiet">{escape(_where(record))}</p>',
        *_marks(record),
        "<h2>What it says</h2>",
        bullets(conclusions(record)),
        *_figures(record),
        "<h2>Every cell</h2>",
        table((*_RESULTS, factor, *_ROOFLINE), map(_result_cells, record["results"])),
        f"<p><small>* measured while something else ran. {factor}: paired by rounds with {baseline} of the same run, "
        "from six rounds on. "
        "GOPS: two operations a multiply-accumulate. % of peak: of the matrix products measured in the "
        "same run. % of floor: the least time by arithmetic and memory, layer by layer, over the measured one; caches "
        "can beat it. Limit: what most of that least time is.</small></p>",
        *_fits(record),
        *_regression(record),
        *_end_to_end(record),
        *_against_peers(record),
        *_memory(record),
        *_loadgen(record),
        *_left_out(record),
        "<h2>Conditions</h2>",
        _definitions(record["conditions"]),
    ]


def page(heading: str, parts: Iterable[str]) -> str:
    """A whole page of `parts`, with `heading` as its title."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>resnetrt: {heading}</title>'
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{css()}{_STYLE}</style></head>'
        f"\n<body>\n{body}\n</body></html>\n"
    )


def _has_depths(record: Record) -> bool:
    return any(row.get("depth") is not None for row in record["results"])


def _where(record: Record) -> str:
    found = record["conditions"]
    minutes = f", {record['seconds'] / 60:.1f} minutes" if record.get("seconds") else ""
    return f"{found.get('cpu')}, {found.get('threads')} threads on {found.get('cores')} cores{minutes}"


def _marks(record: Record) -> Iterable[str]:
    if record.get("disturbed"):
        blocks = sum(noise["disturbed"] for noise in record["noise"])
        yield (
            f'<p class="mark"><strong>Disturbed run.</strong> In {blocks} of {len(record["noise"])} blocks something '
            "else used the machine; ratios within a block still hold better than times.</p>"
        )
    if record.get("regression"):
        found = record["regression"]
        yield (
            f'<p class="mark"><strong>Regression check: {found["verdict"]}</strong>, at most '
            f"{found['max_slowdown_percent']:g} % slower than {_compared(found)}.</p>"
        )


def _figures(record: Record) -> Iterable[str]:
    try:
        figures = draw_all(record)
    except BackendMissing as error:
        yield f"<p>No pictures: {escape(str(error))}</p>"
        return
    for name, figure in figures.items():
        caption = _CAPTIONS[name.partition("-")[0]]
        yield f"<figure>{themed_svg(figure, name, caption)}</figure>"


def _result_cells(row: Record) -> Sequence[str]:
    low, high = row["ci_ms"]
    star = " *" if row.get("disturbed") else ""
    shares = (number(row.get(name), 0) for name in ("gops", "percent_of_peak", "percent_of_floor"))
    return (
        row["network"],
        row["engine"] + star,
        str(row["batch"]),
        str(row["n"]),
        format_ms(row["median_ms"]),
        f"{format_ms(low)} to {format_ms(high)}{few_rounds(row)}",
        format_ms(row["p90_ms"]),
        format_ms(row["p99_ms"]),
        number(row.get("times_faster"), 2),
        *shares,
        row.get("limit") or "-",
    )


def _fits(record: Record) -> Iterable[str]:
    if not record.get("fits"):
        return
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
        for fit in record["fits"]
    ]
    yield "<h2>What depth costs: ms = fixed + slope x GMACs of the batch</h2>"
    yield table(("engine", "batch", "fixed ms", "95 %", "ms a GMAC", "95 %", "residuals %"), rows)


def _regression(record: Record) -> Iterable[str]:
    if not record.get("regression"):
        return
    found = record["regression"]
    yield f"<h2>Against {_compared(found)}</h2>"
    yield table(VERDICT_HEADER, map(verdict_cells, found["cells"]))
    others = other_lines(found)
    if others:
        yield bullets(others)


def _compared(regression: Record) -> str:
    return escape(str(regression.get("compared", "the earlier run")))


def _end_to_end(record: Record) -> Iterable[str]:
    if not record.get("end_to_end"):
        return
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in record["end_to_end"]:
        cells.setdefault((row["network"], row["engine"]), {})[row["source"]] = row["median_ms"]
    names = ("jpeg", "frame")
    rows = [(*key, *(format_ms(found.get(name)) for name in names)) for key, found in cells.items()]
    yield "<h2>End to end, batch 1: median ms</h2>"
    yield table(("network", "engine", "from a JPEG", "from a raw frame"), rows)


def _against_peers(record: Record) -> Iterable[str]:
    if not record.get("against_peers"):
        return
    rows = [
        (
            row["network"],
            row["engine"],
            row["peer"],
            row["source"],
            str(row["batch"]),
            number(row["ratio"], 2),
            "-" if row["ratio"] is None else f"{row['ratio_ci'][0]:.2f} to {row['ratio_ci'][1]:.2f}",
        )
        for row in record["against_peers"]
    ]
    yield "<h2>Against peers of the same run: the fastest engine's time over the peer's</h2>"
    yield table(("network", "engine", "peer", "from", "batch", "ratio", "95 % interval"), rows)
    yield "<p><small>Engine: alone, on float32 images. Frame and JPEG include preprocessing.</small></p>"


def _memory(record: Record) -> Iterable[str]:
    if not record.get("memory"):
        return
    rows = [
        (
            row["network"],
            row["engine"],
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['peak_rss_bytes'] / 1e6:.0f}",
            f"{row['load_and_selftest_ms']:.0f}",
            f"{row['start_to_first_ms']:.0f}",
        )
        for row in record["memory"]
    ]
    yield "<h2>Memory and start, each engine in a fresh process</h2>"
    header = (
        "network",
        "engine",
        "file MB",
        "peak RSS MB",
        "load and self-test ms",
        "process start to first output ms",
    )
    yield table(header, rows)


def _loadgen(record: Record) -> Iterable[str]:
    if not record.get("loadgen"):
        return
    rows = [
        (row["network"], row["engine"], row["label"], row["result"], _loadgen_number(row)) for row in record["loadgen"]
    ]
    yield "<h2>LoadGen</h2>"
    yield table(("network", "engine", "scenario", "result", "number"), rows)
    yield "<p><small>Result not verified by MLCommons Association.</small></p>"


def _loadgen_number(row: Record) -> str:
    return "-" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"


def _left_out(record: Record) -> Iterable[str]:
    if record.get("left_out"):
        yield "<h2>Left out</h2>"
        yield bullets(record["left_out"])


def _definitions(conditions: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in conditions.get("versions", {}).items())
    facts = {**{name: value for name, value in conditions.items() if name != "versions"}, "versions": versions}
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(str(v))}</dd>" for n, v in facts.items()) + "</dl>"


def bullets(lines: Iterable[str]) -> str:
    """A list of lines of text."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls on a narrow screen; cells are text, not HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None, digits: int) -> str:
    """So many digits after the point; a dash where there is no value."""
    return "-" if value is None else f"{value:.{digits}f}"
