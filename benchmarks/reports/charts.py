"""The charts of a bench run: latency against depth, what INT8 buys, the roofline, layers, and accuracy if known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetrt.atomic import write_file
from resnetrt.benchmarks.depth.bench_record import BenchRecord, ProfileRow
from resnetrt.benchmarks.depth.fit import CrossingRow
from resnetrt.benchmarks.measure.latency import BASELINES, CPU
from resnetrt.benchmarks.measure.roofline import ResultRow
from resnetrt.benchmarks.reports.accuracy import ReportedAccuracy
from resnetrt.benchmarks.reports.cells import format_ms
from resnetrt.benchmarks.reports.report import summarize
from resnetrt.benchmarks.reports.theme import (
    COLOURS,
    DASHES,
    FAINT,
    MARKERS,
    OTHER,
    PAPER,
    colour,
    dress_axes,
    dressed,
    image_bytes,
    new_figure,
    plain_numbers,
    write_below,
    write_caption,
)
from resnetrt.conditions import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LAYERS = 24
_ROOFLINE_TITLE = "Roofline: what is reached of what this machine can do"


@dataclass(frozen=True)
class _End:
    """The right end of a curve: its height, its name, its colour, and what stands for it in a legend."""

    y: float
    name: str
    colour: str
    handle: Any


def draw_all(record: BenchRecord, narrow: bool = False) -> dict[str, "Figure"]:
    """Every picture for which the record has numbers, by file name without suffix.

    `narrow` pictures are for a telephone: names stand below, not beside. Curves against depth need two depths.
    """
    pictures: dict[str, Figure] = {}
    curves = [row for row in record["results"] if row.get("depth") is not None]
    if has_depths(record):
        for batch in sorted({row["batch"] for row in curves}):
            rows = [row for row in curves if row["batch"] == batch]
            pictures[f"depth-batch{batch}"] = draw_depth(rows, batch, narrow)
        drawn = [item for item in record.get("break_even", ()) if item["curve"]]
        if drawn:
            pictures["int8"] = draw_int8(drawn, narrow)
    if any(row.get("ops_per_byte") and row.get("device", CPU) == CPU for row in record["results"]):
        pictures["roofline"] = draw_roofline(record, narrow)
    for layers in record.get("layers", ()):
        pictures[f"layers-{layers['network']}"] = draw_layers(layers, narrow)
    if record.get("engines") and len({row["network"] for row in record["results"]}) == 1:
        pictures["pareto"] = _draw_pareto(record, narrow)
    return pictures


def has_depths(record: BenchRecord) -> bool:
    """Whether the run has networks of several depths: one depth has no axis."""
    return len({row.get("depth") for row in record["results"]} - {None}) > 1


def write_charts(figures: Mapping[str, "Figure"], folder: Path) -> list[Path]:
    """SVG and PNG of each figure."""
    paths = []
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            paths.append(folder / f"{name}.{kind}")
            write_file(paths[-1], image_bytes(figure, kind, name))
    return paths


def draw_depth(rows: Sequence[ResultRow], batch: int, narrow: bool = False) -> "Figure":
    """Median latency against depth with intervals: one curve per engine, named at its right end or below."""
    with dressed() as figure_class:
        figure = new_figure(figure_class, 5.2, narrow)
        axes = figure.add_subplot(facecolor=PAPER)
        ends = []
        for engine, curve in _curves(rows):
            last, handle = curve[-1], _draw_curve(axes, curve)
            name = f"{engine}  {format_ms(last['median_ms'])}"
            ends.append(_End(last["median_ms"], name, _colour(last), handle))
        dress_axes(axes, f"Latency against depth, batch {batch}", "depth (layers)", "median latency of a batch, ms")
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        _depth_axis(axes, sorted({row["depth"] for row in rows if row["depth"] is not None}))
        caption = _caption(rows, "bars: intervals of the median over rounds, 95 % from six rounds on")
        _name_curves(figure, axes, ends, narrow, caption)
    return figure


def draw_int8(break_even: Sequence[CrossingRow], narrow: bool = False) -> "Figure":
    """The speed-up of INT8 over FP32 on the same backend, against depth; above the line INT8 pays."""
    with dressed() as figure_class:
        figure = new_figure(figure_class, 4.4, narrow)
        axes = figure.add_subplot(facecolor=PAPER)
        ends = []
        for item in break_even:
            x = [point["depth"] for point in item["curve"]]
            y = [point["times_faster"] for point in item["curve"]]
            bars = [[v - p["ci"][0] for v, p in zip(y, item["curve"], strict=True)],
                    [p["ci"][1] - v for v, p in zip(y, item["curve"], strict=True)]]  # fmt: skip
            shade = COLOURS["int8"] if item["backend"] == "openvino" else COLOURS["fp32"]
            style = DASHES["onnxruntime"] if item["batch"] > 1 else "-"
            handle = axes.errorbar(x, y, yerr=np.maximum(bars, 0), color=shade, linestyle=style, marker="o", capsize=3)
            ends.append(_End(y[-1], f"{item['backend']}, batch {item['batch']}  {y[-1]:.1f}x", shade, handle))
        axes.axhline(1.0, color=FAINT, linewidth=1)
        dress_axes(axes, "What INT8 buys on the same backend", "depth (layers)", "times faster than FP32")
        axes.set_ylim(bottom=0)
        _depth_axis(axes, sorted({point["depth"] for item in break_even for point in item["curve"]}))
        _name_curves(figure, axes, ends, narrow)
    return figure


def _depth_axis(axes: "Axes", depths: Sequence[int]) -> None:
    axes.set_xticks(depths)
    axes.set_xlim(min(depths) - 6, max(depths) + 6)


def draw_roofline(record: BenchRecord, narrow: bool = False) -> "Figure":
    """Achieved operations per second against operations per byte, under the measured roofs of the CPU."""
    rows = [row for row in record["results"] if row.get("ops_per_byte") and row.get("device", CPU) == CPU]
    peaks = record["peaks"]
    with dressed() as figure_class:
        figure = new_figure(figure_class, 5.2, narrow)
        axes = figure.add_subplot(facecolor=PAPER)
        loads = np.array([row["ops_per_byte"] for row in rows])
        x = np.geomspace(loads.min() / 3, loads.max() * 3, 200)
        for precision, gops in peaks["best"].items():
            shade = COLOURS.get(precision, OTHER)
            roof = f"{precision} matrix products, {gops:.0f} GOPS"  # in the legend: on the line it would cover points
            axes.plot(x, np.minimum(gops, x * peaks["copy_gb_s"]), color=shade, linewidth=1.4, label=roof)
        for engine, group in _curves(rows):
            xs, ys = np.array([row["ops_per_byte"] for row in group]), np.array([row["gops"] for row in group])
            shade, marker = _colour(group[0]), MARKERS.get(group[0]["backend"], "o")
            axes.scatter(xs, ys, color=shade, marker=marker, s=26, alpha=0.85, label=engine, zorder=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        title = "Roofline: reached of what is possible" if narrow else _ROOFLINE_TITLE
        dress_axes(axes, title, "operations per byte moved", "GOPS")
        text = (
            f"sloped: memory copy, {peaks['copy_gb_s']:.0f} GB/s; one point a network and batch; traffic without caches"
        )
        if narrow:
            write_below(figure, *axes.get_legend_handles_labels(), text)
        else:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
            write_caption(figure, text)
    return figure


def draw_layers(record: ProfileRow, narrow: bool = False) -> "Figure":
    """The slowest layers of one engine, coloured by precision; all others as one bar."""
    layers = sorted(record["layers"], key=lambda layer: -layer["ms"])
    shown, rest = layers[:_MOST_LAYERS], layers[_MOST_LAYERS:]
    total = sum(layer["ms"] for layer in layers)
    bars = [(f"{_short(layer['name'])}  {layer['op']}", layer["ms"], layer["precision"]) for layer in shown]
    if rest:
        bars.append((f"{len(rest)} others", sum(layer["ms"] for layer in rest), ""))
    with dressed() as figure_class:
        figure = new_figure(figure_class, 1.2 + (0.32 if narrow else 0.24) * len(bars), narrow)
        axes = figure.add_subplot(facecolor=PAPER)
        places = range(len(bars))
        colours = [COLOURS.get(precision, OTHER) for *_, precision in bars]
        axes.barh(places, [ms for _, ms, _ in bars], color=colours, height=0.3 if narrow else 0.7)
        for place, (name, ms, precision) in zip(places, bars, strict=True):
            share = f"{ms:.3f} ms  {ms / total:.0%}  {precision}"
            if narrow:  # the name stands above its bar
                text = f"{name}  {share}"
                axes.annotate(text, (0, place), xytext=(0, 4), textcoords="offset points", va="bottom", fontsize=7)
            else:
                axes.annotate(share, (ms, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(places, [] if narrow else [name for name, *_ in bars], fontsize=8)
        axes.invert_yaxis()
        axes.locator_params(axis="x", nbins=4 if narrow else 9)
        axes.set_xlim(0, (1.05 if narrow else 1.25) * max(ms for _, ms, _ in bars))
        dress_axes(axes, "", "ms", "")
        line_end = "\n" if narrow else " "
        title = f"{record['network']} {record['engine']}:{line_end}time by layer, {total:.2f} ms in all"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _draw_pareto(record: BenchRecord, narrow: bool) -> "Figure":
    from resnetrt.benchmarks.reports.plot import draw_tradeoff

    batch = min(row["batch"] for row in record["results"])
    accuracy = [ReportedAccuracy.from_json(row) for row in record["engines"]]
    with dressed():
        return draw_tradeoff(summarize(accuracy, record["results"], batch), "Accuracy against latency", narrow)


def _curves(rows: Sequence[ResultRow]) -> Iterator[tuple[str, list[ResultRow]]]:
    """Engines, ordered by their slowest network, each with its rows by depth."""

    def place(row: ResultRow) -> tuple[Any, ...]:
        return row["engine"] not in BASELINES, row["engine"], row["depth"] or 0, row["batch"]

    ranked = sorted(rows, key=place)
    for engine, group in groupby(ranked, lambda row: str(row["engine"])):
        yield engine, list(group)


def _draw_curve(axes: "Axes", curve: Sequence[ResultRow]) -> Any:
    x, y = np.array([row["depth"] for row in curve]), [row["median_ms"] for row in curve]
    bars = [[v - row["ci_ms"][0] for v, row in zip(y, curve, strict=True)],
            [row["ci_ms"][1] - v for v, row in zip(y, curve, strict=True)]]  # fmt: skip
    backend = curve[0]["backend"]
    style = DASHES.get(backend, "-")
    marker = MARKERS.get(backend, "o")
    return axes.errorbar(
        x, y, yerr=np.maximum(bars, 0), color=_colour(curve[0]), linestyle=style, marker=marker, markersize=5, capsize=3
    )


def _colour(row: ResultRow) -> str:
    return colour(row["engine"], row["precision"])


def _name_curves(figure: "Figure", axes: "Axes", ends: Sequence[_End], narrow: bool, caption: str = "") -> None:
    """Write each curve's name: below if `narrow`, else at its end, spaced so that none covers another."""
    if narrow:
        ranked = sorted(ends, key=lambda end: -end.y)
        write_below(figure, [end.handle for end in ranked], [end.name for end in ranked], caption)
        return
    if caption:
        write_caption(figure, caption)
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    line = 15.0 * figure.dpi / 72 * 10 / 11
    pixels = {end: float(axes.transData.transform((axes.get_xlim()[1], end.y))[1]) for end in ends}
    ranked = sorted(ends, key=lambda end: pixels[end])
    places = spread([pixels[end] for end in ranked], line, box.y0, box.y1)
    for place, end in zip(places, ranked, strict=True):
        where = (1.0, (place - box.y0) / box.height)
        axes.annotate(
            end.name, where, xycoords="axes fraction", color=end.colour, fontsize=9, va="center", annotation_clip=False
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the `wanted` ones (ascending), at least `gap` apart, inside `[low, high]` while there is room."""
    places: list[float] = []
    for value in wanted:
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    over = max(0.0, places[-1] - high) if places else 0.0
    ceiling = (places[-1] - over) if places else high
    for index in range(len(places) - 1, -1, -1):
        places[index] = ceiling = min(places[index], ceiling)
        ceiling -= gap
    return places


def _caption(rows: Sequence[ResultRow], text: str) -> str:
    threads = " or ".join(plural(count, "thread") for count in sorted({row["threads"] for row in rows}))
    disturbed = sum(bool(row.get("disturbed")) for row in rows)
    mark = f"; {disturbed} of {len(rows)} cells measured on a disturbed machine" if disturbed else ""
    return f"{text}; {threads}{mark}"


def _short(name: str) -> str:
    name = name.replace("/WithoutBiases", "")  # OpenVINO adds this to every convolution's name
    return name if len(name) <= 36 else f"{name[:17]}…{name[-18:]}"
