"""The latency/accuracy picture: each engine is a point with error bars and a label; as SVG and PNG."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.measure.latency import BASELINES
from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS, no_ratio
from resnetrt.benchmarks.reports.cells import baseline_words, format_ms
from resnetrt.benchmarks.reports.label_placement import Box, Label, Point, place_labels
from resnetrt.errors import BackendMissing, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# after Okabe and Ito, told apart by colour-blind readers; the light ones are darkened, because labels use them too
_COLOURS = {"fp32": "#0072B2", "fp16": "#009E73", "bf16": "#A3447F", "int8": "#D55E00", "fp8": "#9A6700"}
_EAGER, _OTHER, _INK, _FAINT = "#333333", "#666666", "#222222", "#8a8a8a"
_LOG_FROM = 4.0  # if latencies span more than this factor, the axis is logarithmic
Row = Mapping[str, Any]


def write_tradeoff(summary: Sequence[Row], title: str, stem: Path) -> list[Path]:
    """Write `<stem>.svg` and `<stem>.png` and return their paths.

    Raises `BackendMissing` without matplotlib, `UsageError` if no engine has both a latency and an accuracy.
    """
    figure = draw_tradeoff(summary, title)
    import matplotlib

    written = []
    with matplotlib.rc_context({"svg.hashsalt": "resnetrt"}):  # equal results give equal files
        for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
            blob = io.BytesIO()
            figure.savefig(blob, format=suffix[1:], metadata=metadata)
            path = stem.with_name(stem.name + suffix)
            write_file(path, blob.getvalue())
            written.append(path)
    return written


def draw_tradeoff(summary: Sequence[Row], title: str) -> "Figure":
    """Top-1 against median latency for the rows of a report's summary, on white."""
    figure_class = _figure_class()
    rows = [row for row in summary if row["median_ms"] is not None and row["top1"] is not None]
    if not rows:
        raise UsageError("picture: expected an engine with both latency and accuracy, found none; measure both")
    figure: Figure = figure_class(figsize=(8.5, 5.0), dpi=144, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        _draw_engine(axes, row)
    _dress(axes, rows, title)
    _label(figure, axes, rows)
    return figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing(
            "picture: expected matplotlib, found none; install it with: pip install 'resnetrt[report]'"
        ) from error
    return Figure


def _draw_engine(axes: "Axes", row: Row) -> None:
    x, y, (left, right), (low, high) = row["median_ms"], row["top1"], *_intervals(row)
    axes.errorbar(
        x,
        y,
        xerr=[[max(0.0, x - left)], [max(0.0, right - x)]],
        yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
        fmt="D" if row["engine"] in BASELINES else "o",
        color=_colour(row),
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


def _colour(row: Row) -> str:
    return _EAGER if row["engine"] in BASELINES else _COLOURS.get(str(row["precision"]), _OTHER)


def _baselines(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["engine"] in BASELINES]


def _dress(axes: "Axes", rows: Sequence[Row], title: str) -> None:
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
        axes.axhline(row["top1"], color=_FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    batch = rows[0]["batch"]
    axes.set_xlabel(f"median latency of a batch of {batch}, ms  (left is faster)", color=_INK)
    axes.set_ylabel("top-1 accuracy, %  (up is better)", color=_INK)
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    dashed = f"; dashed: {baseline_words(rows)}" if _baselines(rows) else ""
    rounds = [row.get("rounds") or ENOUGH_ROUNDS for row in rows]
    few = f"\n{no_ratio(min(rounds), 'measure longer')}" if min(rounds) < ENOUGH_ROUNDS else ""
    disturbed = "; *: measured on a disturbed machine" if any(row.get("disturbed") for row in rows) else ""
    axes.figure.supxlabel(
        "bars: intervals of the median latency, 95 % from six rounds on, and 95 % of the accuracy drop on the same "
        f"images{dashed}{disturbed}{few}",
        fontsize=8,
        color=_OTHER,
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
            axes.plot(points[:, 0], points[:, 1], color=_FAINT, linewidth=0.7, zorder=2)


def _anchors(axes: "Axes", row: Row) -> list[Point]:
    """The marker and the ends of the accuracy bar, in pixels."""
    _, (low, high) = _intervals(row)
    heights = [row["top1"], *([high, low] if high > low else [])]
    return [tuple(axes.transData.transform((row["median_ms"], height))) for height in heights]


def _measured_text(axes: "Axes", row: Row) -> Any:
    from matplotlib.patheffects import withStroke

    faster = "" if row["times_faster"] is None or row["engine"] in BASELINES else f", {row['times_faster']:.1f}x"
    star = " *" if row.get("disturbed") else ""
    label = f"{row['engine']}{star}\n{format_ms(row['median_ms'])} ms{faster}"
    text = axes.text(0, 0, label, color=_colour(row), fontsize=9, ha="left", va="bottom", linespacing=1.15, zorder=4)
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return text


def _drawn_boxes(axes: "Axes", row: Row) -> list[Box]:
    """Boxes, in pixels, that the marker and the error bars cover, with a small margin."""
    (left, right), (low, high) = _intervals(row)
    x, y = axes.transData.transform((row["median_ms"], row["top1"]))
    (x0, y0), (x1, y1) = axes.transData.transform([(left, low), (right, high)])
    return [(x - 8, y - 8, x + 8, y + 8), (x0 - 2, y - 4, x1 + 2, y + 4), (x - 5, y0 - 2, x + 5, y1 + 2)]
