"""The picture of a layer report: SQNR over depth, and the share that each layer's range clips."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnetrt.atomic import write_file
from resnetrt.benchmarks.reports.theme import image_bytes
from resnetrt.calibration.explain.layer_report import LayerRow
from resnetrt.calibration.explain.suspects import LEAST_OWN_DB
from resnetrt.errors import UsageError
from resnetrt.parts import import_part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OWN, _WHOLE, _CLIP, _INK, _FAINT = "#0072B2", "#D55E00", "#A3447F", "#222222", "#8a8a8a"
_TOP_DB = 70.0  # better values are drawn here
_NAMED = 3  # the worst layers, whose names are printed bold
_FORMATS = (".svg", ".png")


def write_layer_plot(rows: Sequence[LayerRow], title: str, path: Path) -> None:
    """Write the picture to `path` (.svg or .png).

    Raises `UsageError` for another format, `BackendMissing` without matplotlib.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(
            f"--explain-plot {path}: expected a file name that ends in .svg or .png, found {path.suffix!r}"
        )
    write_file(path, image_bytes(draw_layers(rows, title), path.suffix[1:], "resnetrt"))


def draw_layers(rows: Sequence[LayerRow], title: str) -> "Figure":
    """Above: SQNR of each layer on its own and in the network; below: the clipped share of its input."""
    figure_class = import_part("matplotlib.figure", "picture").Figure
    width = min(max(7.0, 0.22 * len(rows) + 2.0), 24.0)
    figure: Figure = figure_class(figsize=(width, 6.4), dpi=144, facecolor="white", layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_sqnr(above, rows, title)
    _draw_clipping(below, rows)
    _name_layers(below, rows)
    return figure


def _draw_sqnr(axes: "Axes", rows: Sequence[LayerRow], title: str) -> None:
    x = range(len(rows))
    axes.plot(x, _capped(row.own_sqnr_db for row in rows), "o", color=_OWN, markersize=5, label="the layer on its own")
    axes.plot(x, _capped(row.sqnr_db for row in rows), "-", color=_WHOLE, linewidth=1.6, label="within the network")
    axes.axhline(LEAST_OWN_DB, color=_FAINT, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
    limit = f"suspicious below {LEAST_OWN_DB:.0f} dB"
    axes.annotate(limit, (0, LEAST_OWN_DB), (2, 3), textcoords="offset points", fontsize=8, color=_FAINT)
    axes.set_ylabel("SQNR of the output, dB  (up is better)", color=_INK)
    axes.set_ylim(min(LEAST_OWN_DB - 5, *_capped(min(row.sqnr_db, row.own_sqnr_db) - 4 for row in rows)), None)
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
    _dress(axes)


def _draw_clipping(axes: "Axes", rows: Sequence[LayerRow]) -> None:
    axes.bar(range(len(rows)), [100 * row.clipped for row in rows], color=_CLIP, width=0.7)
    axes.set_ylabel("clipped, %", color=_INK)
    axes.set_ylim(0, max(0.02, *(115 * row.clipped for row in rows)))
    _dress(axes)


def _name_layers(axes: "Axes", rows: Sequence[LayerRow]) -> None:
    every = max(1, -(-len(rows) // 90))
    places = range(0, len(rows), every)
    axes.set_xticks(list(places), [rows[i].layer for i in places], rotation=90, fontsize=7)
    axes.set_xlim(-0.8, len(rows) - 0.2)
    worst = set(sorted(range(len(rows)), key=lambda i: rows[i].own_sqnr_db)[:_NAMED])
    for place, label in zip(places, axes.get_xticklabels(), strict=True):
        if place in worst:
            label.set_color(_OWN)
            label.set_fontweight("bold")


def _capped(values: Iterable[float]) -> list[float]:
    return [min(value, _TOP_DB) for value in values]


def _dress(axes: "Axes") -> None:
    axes.grid(True, axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
