"""The latency/accuracy picture: each engine is a point with error bars and a label; as SVG and PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.measure.latency import BASELINES
from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS, no_ratio
from resnetrt.benchmarks.reports.cells import baseline_words, format_ms
from resnetrt.benchmarks.reports.label_placement import Box, Label, Point, place_labels
from resnetrt.benchmarks.reports.theme import (
    FAINT,
    MARKERS,
    PAPER,
    colour,
    dress_axes,
    dressed,
    image_bytes,
    new_figure,
    write_below,
    write_caption,
)
from resnetrt.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG_FROM = 4.0  # if latencies span more than this factor, the axis is logarithmic
Row = Mapping[str, Any]  # of a summary (`accuracy.SummaryRow`) or of a search; those that are drawn have both numbers


def write_tradeoff(summary: Sequence[Row], title: str, stem: Path) -> list[Path]:
    """Write `<stem>.svg` and `<stem>.png` and return their paths.

    Raises `BackendMissing` without matplotlib, `UsageError` if no engine has both a latency and an accuracy.
    """
    figure = draw_tradeoff(summary, title)
    written = []
    for kind in ("svg", "png"):
        written.append(stem.with_name(f"{stem.name}.{kind}"))
        write_file(written[-1], image_bytes(figure, kind, "resnetrt"))
    return written


def draw_tradeoff(summary: Sequence[Row], title: str, narrow: bool = False) -> "Figure":
    """Top-1 against median latency for the rows of a report's summary; names beside the points, or below if `narrow`.

    Raises `BackendMissing` without matplotlib, `UsageError` if no engine has both a latency and an accuracy.
    """
    rows = [row for row in summary if row["median_ms"] is not None and row["top1"] is not None]
    if not rows:
        raise UsageError("picture: expected an engine with both latency and accuracy, found none; measure both")
    with dressed() as figure_class:
        figure = new_figure(figure_class, 5.0, narrow)
        axes = figure.add_subplot(facecolor=PAPER)
        points = [_draw_engine(axes, row, narrow) for row in rows]
        _dress(axes, rows, title, narrow)
        if narrow:
            write_below(figure, points, [_name(row).replace("\n", "  ") for row in rows], _caption(rows))
        else:
            write_caption(figure, _caption(rows))
            _label(figure, axes, rows)
    return figure


def _draw_engine(axes: "Axes", row: Row, narrow: bool) -> Any:
    # points that are named below are told apart by their marker too
    marker = "D" if row["engine"] in BASELINES else MARKERS.get(str(row["backend"]), "o") if narrow else "o"
    x, y, (left, right), (low, high) = row["median_ms"], row["top1"], *_intervals(row)
    return axes.errorbar(
        x,
        y,
        xerr=[[max(0.0, x - left)], [max(0.0, right - x)]],
        yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
        fmt=marker,
        color=colour(row["engine"], str(row["precision"])),
        markersize=7,
        elinewidth=1.4,
        capsize=3,
        zorder=3,
    )


def _intervals(row: Row) -> tuple[Point, Point]:
    """The intervals of the median latency, and of top-1 relative to the FP32 top-1 on the same images."""
    x, y = row["median_ms"], row["top1"]
    if row["drop_ci_pp"] is None:
        return row["ci_ms"] or (x, x), (y, y)
    reference = y + row["drop_pp"]
    low, high = row["drop_ci_pp"]
    return row["ci_ms"] or (x, x), (reference - high, reference - low)


def _baselines(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["engine"] in BASELINES]


def _dress(axes: "Axes", rows: Sequence[Row], title: str, narrow: bool) -> None:
    latencies = [end for row in rows for end in (row["median_ms"], *_intervals(row)[0])]
    if max(latencies) > _LOG_FROM * min(latencies):
        _logarithmic(axes, latencies)
    else:
        axes.set_xlim(0, 1.35 * max(latencies))
    low = min(_intervals(row)[1][0] for row in rows)
    high = max(_intervals(row)[1][1] for row in rows)
    room = max(high - low, 0.5) * 0.25
    axes.set_ylim(low - room, high + room)
    for row in _baselines(rows):
        axes.axhline(row["top1"], color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    batch = rows[0]["batch"]
    better = ("", "") if narrow else ("  (left is faster)", "  (up is better)")
    dress_axes(axes, title, f"median latency of a batch of {batch}, ms{better[0]}", f"top-1 accuracy, %{better[1]}")


def _caption(rows: Sequence[Row]) -> str:
    dashed = f"; dashed: {baseline_words(rows)}" if _baselines(rows) else ""
    rounds = [row.get("rounds") or ENOUGH_ROUNDS for row in rows]
    few = f"; {no_ratio(min(rounds), 'measure longer')}" if min(rounds) < ENOUGH_ROUNDS else ""
    disturbed = "; *: measured on a disturbed machine" if any(row.get("disturbed") for row in rows) else ""
    return (
        "bars: intervals of the median latency, 95 % from six rounds on, and 95 % of the accuracy drop on the same "
        f"images{dashed}{disturbed}{few}"
    )


def _logarithmic(axes: "Axes", latencies: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = max(latencies) > 20 * min(latencies)
    axes.set_xscale("log")
    axes.set_xlim(min(latencies) / 1.7, max(latencies) * 1.7)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if wide else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(figure: "Figure", axes: "Axes", rows: Sequence[Row]) -> None:
    """Write each engine's name beside its point; texts are measured first, then placed without overlap."""
    figure.draw_without_rendering()
    texts = [_measured_text(axes, row) for row in rows]
    extents = [text.get_window_extent() for text in texts]
    labels = [
        Label((box.width, box.height), _anchors(axes, row), _drawn_boxes(axes, row))
        for box, row in zip(extents, rows, strict=True)
    ]
    bounds = axes.get_window_extent().extents
    heights = [axes.transData.transform((1, row["top1"]))[1] for row in _baselines(rows)]
    dashed = [(bounds[0], y - 2, bounds[2], y + 2) for y in heights]
    to_data = axes.transData.inverted()
    for text, placement in zip(texts, place_labels(labels, dashed, bounds), strict=True):
        text.set_position(to_data.transform(placement.box[:2]))
        if placement.leader is not None:
            points = to_data.transform(placement.leader)
            axes.plot(points[:, 0], points[:, 1], color=FAINT, linewidth=0.7, zorder=2)


def _anchors(axes: "Axes", row: Row) -> list[Point]:
    """The marker and the ends of the accuracy bar, in pixels."""
    _, (low, high) = _intervals(row)
    heights = [row["top1"], *([high, low] if high > low else [])]
    return [tuple(axes.transData.transform((row["median_ms"], height))) for height in heights]


def _name(row: Row) -> str:
    faster = "" if row["times_faster"] is None or row["engine"] in BASELINES else f", {row['times_faster']:.1f}x"
    star = " *" if row.get("disturbed") else ""
    return f"{row['engine']}{star}\n{format_ms(row['median_ms'])} ms{faster}"


def _measured_text(axes: "Axes", row: Row) -> Any:
    from matplotlib.patheffects import withStroke

    shade = colour(row["engine"], str(row["precision"]))
    text = axes.text(0, 0, _name(row), color=shade, fontsize=9, ha="left", va="bottom", linespacing=1.15, zorder=4)
    text.set_path_effects([withStroke(linewidth=3, foreground=PAPER)])
    return text


def _drawn_boxes(axes: "Axes", row: Row) -> list[Box]:
    """Boxes, in pixels, that the marker and the error bars cover, with a small margin."""
    (left, right), (low, high) = _intervals(row)
    x, y = axes.transData.transform((row["median_ms"], row["top1"]))
    (x0, y0), (x1, y1) = axes.transData.transform([(left, low), (right, high)])
    return [(x - 8, y - 8, x + 8, y + 8), (x0 - 2, y - 4, x1 + 2, y + 4), (x - 5, y0 - 2, x + 5, y1 + 2)]
