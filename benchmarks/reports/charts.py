"""The charts of a bench run: latency against depth, what INT8 buys, the roofline, layers, and accuracy if known."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetrt.atomic import write_file
from resnetrt.benchmarks.measure.latency import BASELINES, CPU
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
    plain_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LAYERS = 24
Record = Mapping[str, Any]
Row = Mapping[str, Any]


def draw_all(record: Record) -> dict[str, "Figure"]:
    """Every picture for which the record has numbers, by file name without suffix."""
    found: dict[str, Figure] = {}
    curves = [row for row in record["results"] if row.get("depth") is not None]
    for batch in sorted({row["batch"] for row in curves}):
        found[f"depth-batch{batch}"] = draw_depth([row for row in curves if row["batch"] == batch], batch)
    drawn = [item for item in record.get("break_even", ()) if item["curve"]]
    if drawn:
        found["int8"] = draw_int8(drawn)
    if any(row.get("ops_per_byte") and row.get("device", CPU) == CPU for row in record["results"]):
        found["roofline"] = draw_roofline(record)
    for layers in record.get("layers", ()):
        found[f"layers-{layers['network']}"] = draw_layers(layers)
    if record.get("engines") and len({row["network"] for row in record["results"]}) == 1:
        found["pareto"] = _draw_pareto(record)
    return found


def write_charts(figures: Mapping[str, "Figure"], folder: Path) -> list[Path]:
    """SVG and PNG of each figure."""
    paths = []
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            paths.append(folder / f"{name}.{kind}")
            write_file(paths[-1], image_bytes(figure, kind, name))
    return paths


def draw_depth(rows: Sequence[Row], batch: int) -> "Figure":
    """Median latency against depth with intervals: one curve per engine, named at its right end."""
    with dressed() as figure_class:
        figure: Figure = figure_class(figsize=(9.0, 5.2), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot(facecolor=PAPER)
        ends = []
        for engine, curve in _curves(rows):
            _draw_curve(axes, engine, curve)
            last = curve[-1]
            ends.append((last["median_ms"], f"{engine}  {format_ms(last['median_ms'])}", _colour(last)))
        dress_axes(axes, f"Latency against depth, batch {batch}", "depth (layers)", "median latency of a batch, ms")
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        depths = sorted({row["depth"] for row in rows})
        axes.set_xticks(depths)
        axes.set_xlim(min(depths) - 6, max(depths) + 6)
        _name_ends(axes, ends, max(depths) + 6)
        _caption(figure, rows, "bars: intervals of the median over rounds, 95 % from six rounds on")
    return figure


def draw_int8(break_even: Sequence[Row]) -> "Figure":
    """The speed-up of INT8 over FP32 on the same backend, against depth; above the line INT8 pays."""
    with dressed() as figure_class:
        figure: Figure = figure_class(figsize=(9.0, 4.4), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot(facecolor=PAPER)
        ends, depths = [], sorted({point["depth"] for found in break_even for point in found["curve"]})
        for found in break_even:
            x = [point["depth"] for point in found["curve"]]
            y = [point["times_faster"] for point in found["curve"]]
            bars = [[v - p["ci"][0] for v, p in zip(y, found["curve"], strict=True)],
                    [p["ci"][1] - v for v, p in zip(y, found["curve"], strict=True)]]  # fmt: skip
            shade = COLOURS["int8"] if found["backend"] == "openvino" else COLOURS["fp32"]
            style = DASHES["onnxruntime"] if found["batch"] > 1 else "-"
            axes.errorbar(x, y, yerr=np.maximum(bars, 0), color=shade, linestyle=style, marker="o", capsize=3)
            ends.append((y[-1], f"{found['backend']}, batch {found['batch']}  {y[-1]:.1f}x", shade))
        axes.axhline(1.0, color=FAINT, linewidth=1)
        dress_axes(axes, "What INT8 buys on the same backend", "depth (layers)", "times faster than FP32")
        axes.set_ylim(bottom=0)
        axes.set_xticks(depths)
        axes.set_xlim(min(depths) - 6, max(depths) + 6)
        _name_ends(axes, ends, max(depths) + 6)
    return figure


def draw_roofline(record: Record) -> "Figure":
    """Achieved operations per second against operations per byte, under the measured roofs of the CPU."""
    rows = [row for row in record["results"] if row.get("ops_per_byte") and row.get("device", CPU) == CPU]
    peaks = record["peaks"]
    with dressed() as figure_class:
        figure: Figure = figure_class(figsize=(9.0, 5.2), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot(facecolor=PAPER)
        low, high = (f([row["ops_per_byte"] for row in rows]) for f in (min, max))
        x = np.geomspace(low / 3, high * 3, 200)
        for precision, gops in peaks["best"].items():
            shade = COLOURS.get(precision, OTHER)
            roof = f"{precision} matrix products, {gops:.0f} GOPS"  # in the legend: on the line it would cover points
            axes.plot(x, np.minimum(gops, x * peaks["copy_gb_s"]), color=shade, linewidth=1.4, label=roof)
        for engine, group in _curves(rows):
            xs, ys = [row["ops_per_byte"] for row in group], [row["gops"] for row in group]
            shade, marker = _colour(group[0]), MARKERS.get(group[0]["backend"], "o")
            axes.scatter(xs, ys, color=shade, marker=marker, s=26, alpha=0.85, label=engine, zorder=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        dress_axes(axes, "Roofline: what is reached of what this machine can do", "operations per byte moved", "GOPS")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
        text = (
            f"sloped: memory copy, {peaks['copy_gb_s']:.0f} GB/s; one point a network and batch; traffic without caches"
        )
        figure.supxlabel(text, fontsize=8, color=OTHER)
    return figure


def draw_layers(record: Row) -> "Figure":
    """The slowest layers of one engine, coloured by precision; all others as one bar."""
    layers = sorted(record["layers"], key=lambda layer: -layer["ms"])
    shown, rest = layers[:_MOST_LAYERS], layers[_MOST_LAYERS:]
    total = sum(layer["ms"] for layer in layers)
    bars = [(f"{_short(layer['name'])}  {layer['op']}", layer["ms"], layer["precision"]) for layer in shown]
    if rest:
        bars.append((f"{len(rest)} others", sum(layer["ms"] for layer in rest), ""))
    with dressed() as figure_class:
        height = 1.2 + 0.24 * len(bars)
        figure: Figure = figure_class(figsize=(9.0, height), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot(facecolor=PAPER)
        places = range(len(bars))
        axes.barh(places, [ms for _, ms, _ in bars], color=[COLOURS.get(p, OTHER) for *_, p in bars], height=0.7)
        for place, (_, ms, precision) in zip(places, bars, strict=True):
            share = f"{ms:.3f} ms  {ms / total:.0%}  {precision}"
            axes.annotate(share, (ms, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(places, [name for name, *_ in bars], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max(ms for _, ms, _ in bars))
        title = f"{record['network']} {record['engine']}: time by layer, {total:.2f} ms in all"
        dress_axes(axes, "", "ms", "")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _draw_pareto(record: Record) -> "Figure":
    from resnetrt.benchmarks.reports.plot import draw_tradeoff

    batch = min(row["batch"] for row in record["results"])
    accuracy = [ReportedAccuracy.from_json(row) for row in record["engines"]]
    with dressed():
        return draw_tradeoff(summarize(accuracy, record["results"], batch), "Accuracy against latency")


def _curves(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Engines, ordered by their slowest network, each with its rows by depth."""

    def place(row: Row) -> tuple[Any, ...]:
        return row["engine"] not in BASELINES, row["engine"], row["depth"] or 0, row["batch"]

    ranked = sorted(rows, key=place)
    for engine, group in groupby(ranked, lambda row: str(row["engine"])):
        yield engine, list(group)


def _draw_curve(axes: "Axes", engine: str, curve: Sequence[Row]) -> None:
    x, y = [row["depth"] for row in curve], [row["median_ms"] for row in curve]
    bars = [[v - row["ci_ms"][0] for v, row in zip(y, curve, strict=True)],
            [row["ci_ms"][1] - v for v, row in zip(y, curve, strict=True)]]  # fmt: skip
    backend = curve[0]["backend"]
    style = DASHES.get(backend, "-")
    marker = MARKERS.get(backend, "o")
    axes.errorbar(
        x, y, yerr=np.maximum(bars, 0), color=_colour(curve[0]), linestyle=style, marker=marker, markersize=5, capsize=3
    )


def _colour(row: Row) -> str:
    return colour(row["engine"], row["precision"])


def _name_ends(axes: "Axes", ends: Sequence[tuple[float, str, str]], x: float) -> None:
    """Write each curve's name at its end, right of the axes, spaced so that none covers another."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    box = axes.get_window_extent()
    line = 15.0 * axes.figure.dpi / 72 * 10 / 11
    wanted = sorted((float(axes.transData.transform((x, y))[1]), text, shade) for y, text, shade in ends)
    places = spread([pixel for pixel, *_ in wanted], line, box.y0, box.y1)
    for place, (_, text, shade) in zip(places, wanted, strict=True):
        fraction = (place - box.y0) / box.height
        axes.annotate(
            text, (1.0, fraction), xycoords="axes fraction", color=shade, fontsize=9, va="center", annotation_clip=False
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


def _caption(figure: "Figure", rows: Sequence[Row], text: str) -> None:
    threads = ", ".join(map(str, sorted({row["threads"] for row in rows})))
    disturbed = sum(bool(row.get("disturbed")) for row in rows)
    mark = f"; {disturbed} of {len(rows)} cells measured on a disturbed machine" if disturbed else ""
    figure.supxlabel(f"{text}; {threads} threads{mark}", fontsize=8, color=OTHER)


def _short(name: str) -> str:
    name = name.replace("/WithoutBiases", "")  # OpenVINO adds this to every convolution's name
    return name if len(name) <= 36 else f"{name[:17]}…{name[-18:]}"
