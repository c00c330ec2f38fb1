"""Draw `docs/architecture.svg` from the code's own imports: `python tests/architecture_map.py`.

Floors are bands, the highest on top; their rooms lie in rows by level. An arrow says "imports from"; one that follows
from others is left out. Arrows between floors are not drawn: any floor may import from all that lie below it.
"""

from collections.abc import Mapping, Sequence
from html import escape

from room_rules import ROOMS, imports, read_modules, room_of
from source_tree import ROOT
from test_floors import FLOORS

PICTURE = ROOT / "docs" / "architecture.svg"
_TRADES = {
    "cli": "one file a command",
    "benchmarks": "measure, judge, report, deploy",
    "calibration": "images, ranges, INT8",
    "export": "fold, ONNX, casts, engines, audit",
    "models": "definitions, weights",
    "runtime": "load, infer, serve; no torch, no onnx",
    "core": "bundle, parity, preprocessing, errors",
}
_FILL = {"cli": "#e8e8ee", "benchmarks": "#dcebf7", "calibration": "#e2f1df", "export": "#fbeed8", "core": "#e8e8ee"}
_WIDTH, _LEFT, _ROW, _BOX, _GAP = 1180, 250, 58, 30, 10
_FONT = 'font-family="Helvetica, Arial, sans-serif"'
Arrows = Mapping[str, set[str]]
Place = tuple[float, float, float]  # the left end, the top and the width of a box


def room_imports(folder: str) -> dict[str, set[str]]:
    """For each room of `folder` the other rooms that its modules import from."""
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS[folder]}
    for module, targets in imports(read_modules(folder), folder).items():
        if room := room_of(module):
            arrows[room] |= {room_of(target) for target in targets} - {room, ""}
    return arrows


def essential(arrows: Arrows) -> dict[str, set[str]]:
    """The arrows that do not follow from others (transitive reduction of a graph without circles)."""

    def reached(room: str) -> set[str]:
        return arrows[room].union(*(reached(target) for target in arrows[room]))

    return {
        room: {to for to in targets if all(to not in reached(o) for o in targets)} for room, targets in arrows.items()
    }


def picture() -> str:
    """The SVG as text; equal code gives equal text."""
    bands, top = [], 16.0
    for floor in sorted(set(FLOORS.values()), reverse=True):
        folders = sorted(folder for folder, number in FLOORS.items() if number == floor)
        width = (_WIDTH - 32) / len(folders)
        heights = []
        for index, folder in enumerate(folders):
            band, height = _band(folder, floor, 16 + index * width, top, width - (8 if index + 1 < len(folders) else 0))
            bands.append(band)
            heights.append(height)
        top += max(heights) + 12
    arrow = '<marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    size = f'width="{_WIDTH}" height="{top:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" {size}>'
    defs = f'<defs>{arrow}<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>'
    return "\n".join([head, defs, f'<rect {size} fill="white"/>', *bands, "</svg>"]) + "\n"


def _band(folder: str, floor: int, left: float, top: float, width: float) -> tuple[str, float]:
    """A folder with its rooms, and how high it is."""
    levels = ROOMS.get(folder, {})
    rows = [[room for room in levels if levels[room] == level] for level in sorted(set(levels.values()), reverse=True)]
    height = max(1, len(rows)) * _ROW
    fill = _FILL.get(folder, "#f3e3ea")
    drawn = [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height}" rx="8" fill="{fill}"/>',
        _text(left + 14, top + 24, f"{floor}  {folder}/", 'font-size="17" font-weight="bold"'),
        _text(left + 14, top + 44, _TRADES[folder], 'font-size="12" fill="#444"'),
    ]
    places: dict[str, Place] = {}
    for number, row in enumerate(rows):
        places |= _places(row, left + _LEFT, top + number * _ROW + (_ROW - _BOX) / 2, width - _LEFT - 14)
    arrows = essential(room_imports(folder)) if levels else {}
    drawn += [_arrow(places[room], places[target]) for room in arrows for target in sorted(arrows[room])]
    for room, (x, y, size) in places.items():
        drawn.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{size:.0f}" height="{_BOX}" rx="5" fill="white" stroke="#777"/>'
        )
        drawn.append(_text(x + size / 2, y + 20, room, 'font-size="13" text-anchor="middle"'))
    return "\n".join(drawn), height


def _places(row: Sequence[str], left: float, top: float, width: float) -> dict[str, Place]:
    """The boxes of a row, as wide as their names, evenly spread."""
    sizes = [len(room) * 7.5 + 22 for room in row]
    space = (width - sum(sizes)) / (len(row) + 1)
    places, x = {}, left + space
    for room, size in zip(row, sizes, strict=True):
        places[room] = (x, top, size)
        x += size + max(space, _GAP)
    return places


def _arrow(start: Place, end: Place) -> str:
    (x, y, size), (to_x, to_y, to_size) = start, end
    x, to_x = x + size / 2, to_x + to_size / 2
    bottom = y + _BOX
    half = (bottom + to_y) / 2
    line = f"M{x:.0f} {bottom:.0f} C{x:.0f} {half:.0f} {to_x:.0f} {half:.0f} {to_x:.0f} {to_y - 1:.0f}"
    return f'<path d="{line}" fill="none" stroke="#555" stroke-width="1.1" marker-end="url(#a)"/>'


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {_FONT} {style}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
