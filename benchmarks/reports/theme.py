"""One look for all pictures: colours, fonts, and figures as SVG, PNG, or SVG that follows the page's theme."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resnetrt.parts import import_part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, OTHER, GRID, PAPER, EAGER = "#222222", "#8a8a8a", "#666666", "#e6e6e6", "#fefefe", "#333333"
# by precision, after Okabe and Ito, told apart by the colour-blind; the light ones darkened, since labels bear them too
COLOURS = {"fp32": "#0072b2", "fp16": "#009e73", "bf16": "#a3447f", "int8": "#d55e00", "fp8": "#9a6700"}
MARKERS = {"eager": "D", "onnxruntime": "o", "openvino": "s", "tensorrt": "^", "tensorrt_rtx": "v"}
DASHES: dict[str, Any] = {"onnxruntime": (0, (5, 2)), "eager": (0, (1, 1.5))}
for _peer, _marker in (("torch-compile", "P"), ("nncf-openvino", "X")):
    MARKERS[_peer], DASHES[_peer] = _marker, (0, (4, 1, 1, 1))
# CSS variable, and light and dark value, of every colour that a picture may use
VARIABLES = {
    INK: ("ink", "#222222", "#e8e8e8"),
    FAINT: ("faint", "#8a8a8a", "#8f8f8f"),
    OTHER: ("other", "#666666", "#b0b0b0"),
    GRID: ("grid", "#e6e6e6", "#3a3d42"),
    PAPER: ("paper", "#fefefe", "#1b1d21"),
    EAGER: ("eager", "#333333", "#d8d8d8"),
    COLOURS["fp32"]: ("fp32", "#0072b2", "#5cb8f0"),
    COLOURS["fp16"]: ("fp16", "#009e73", "#2fcf9f"),
    COLOURS["bf16"]: ("bf16", "#a3447f", "#e08cc0"),
    COLOURS["int8"]: ("int8", "#d55e00", "#ff9442"),
    COLOURS["fp8"]: ("fp8", "#9a6700", "#e0b040"),
}
_WIDE, _NARROW = 9.0, 4.4  # inches: beside text on a screen; on a telephone
_LEGEND_LINE = 0.19  # inches of a line of 9 points below a narrow picture
_WRAP_WIDE, _WRAP_NARROW = 130, 64  # characters of 8 points in a line
_FONT: dict[Any, Any] = {"font.size": 10.0, "svg.fonttype": "path", "axes.titlesize": 11.0}


def colour(engine: str, precision: str) -> str:
    """The colour of an engine: its precision's colour, or ink for the baseline."""
    return EAGER if engine.startswith("eager") else COLOURS.get(precision, OTHER)


@contextmanager
def dressed() -> Iterator[Any]:
    """Inside the block matplotlib draws in this look; yields its `Figure` class.

    Raises `BackendMissing` without matplotlib.
    """
    figure_class = import_part("matplotlib.figure", "picture").Figure
    matplotlib = import_part("matplotlib", "picture")
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    look: dict[Any, Any] = _FONT | dict.fromkeys(inked, INK) | {"axes.edgecolor": FAINT}
    with matplotlib.rc_context(look):
        yield figure_class


def new_figure(figure_class: Any, height: float, narrow: bool) -> "Figure":
    """An empty figure of `height` inches, as wide as a page or, if `narrow`, as a telephone."""
    figure: Figure = figure_class(figsize=(_NARROW if narrow else _WIDE, height), facecolor=PAPER, layout="constrained")
    return figure


def write_caption(figure: "Figure", caption: str) -> None:
    """Small print below a wide picture."""
    figure.supxlabel(textwrap.fill(caption, _WRAP_WIDE), fontsize=8, color=OTHER)


def write_below(figure: "Figure", handles: Sequence[Any], names: Sequence[str], caption: str = "") -> None:
    """A legend and then `caption` below a narrow picture, which grows by their height."""
    lines = textwrap.wrap(caption, _WRAP_NARROW)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _LEGEND_LINE * (len(names) + len(lines)))
    legend = figure.legend(
        handles,
        names,
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        handlelength=3.2,
        title="\n".join(lines),
        title_fontsize=8,
    )
    legend.set_alignment("left")
    legend.get_title().set_color(OTHER)


def dress_axes(axes: "Axes", title: str, x: str, y: str) -> None:
    """Title, axis labels, a faint grid, no box."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_numbers(axis: Any) -> None:
    """Ticks at 1, 2, 5 of a logarithmic axis, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def image_bytes(figure: "Figure", kind: str, name: str) -> bytes:
    """The figure as `svg` or `png`; equal figures give equal bytes."""
    import matplotlib

    blob = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_FONT | {"svg.hashsalt": name}):
        figure.savefig(blob, format=kind, metadata=metadata, dpi=144)
    return blob.getvalue()


def themed_svg(figure: "Figure", name: str, description: str, css_class: str = "") -> str:
    """Inline SVG whose colours are CSS variables of the page, with `description` for screen readers."""
    text = image_bytes(figure, "svg", name).decode()
    text = text[text.index("<svg") :]
    for hex_colour, (variable, *_) in VARIABLES.items():
        text = re.sub(re.escape(hex_colour), f"var(--{variable})", text, flags=re.IGNORECASE)
    text = re.sub("#ffffff", "var(--paper)", text, flags=re.IGNORECASE)
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    # ids of clip paths and glyphs are shared by the page: keep those of two pictures apart
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    attributes = f'class="{css_class}" role="img" aria-label="{description}" fill="var(--ink)"'
    return text.replace("<svg ", f"<svg {attributes} ", 1)


def css() -> str:
    """The variables for light and dark."""
    light = ";".join(f"--{name}:{value}" for name, value, _ in VARIABLES.values())
    dark = ";".join(f"--{name}:{value}" for name, _, value in VARIABLES.values())
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
