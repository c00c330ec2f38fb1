"""The images whose predicted class changed: a list, worst first, and a picture of them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnetrt.atomic import write_file
from resnetrt.benchmarks.accuracy.comparison import PairedOutcomes
from resnetrt.calibration.images.data import Dataset
from resnetrt.errors import UsageError
from resnetrt.preprocess import UInt8Array

_TILE, _GAP, _COLUMNS, _LINE, _FONT = 160, 10, 6, 15, 12
_RED, _GREEN, _GREY, _INK = (190, 40, 30), (20, 120, 70), (120, 120, 120), (30, 30, 30)
_NO_FLIPS = "Every image has the class that the reference gives it: there is nothing to show."


@dataclass(frozen=True)
class Flip:
    """One flipped image: its classes by name, and the margins of both answers.

    `position` is its place among the distinct images of the run, `index` that in the data set, `image` its name there.
    `lost` says that the reference was right.
    """

    position: int
    index: int
    image: str
    label: str
    reference: str
    candidate: str
    reference_margin: float
    candidate_margin: float
    lost: bool

    def to_json(self) -> dict[str, Any]:
        """The row under `flips[]` of an engine of `evaluate --json`."""
        return asdict(self)


def worst_flips(
    comparison: PairedOutcomes, engine: str, count: int, names: Sequence[str], identity: Callable[[int], str]
) -> list[Flip]:
    """At most `count` flipped images: losses first, then by the sum of both margins, largest first.

    Large margins on both sides mean two confident answers that disagree; small margins mean coin tosses. `identity`
    names the image at an index of the data set.
    """
    reference, candidate = comparison.reference, comparison.candidates[engine]
    flipped = np.flatnonzero(reference.predicted != candidate.predicted)
    lost = reference.predicted[flipped] == comparison.labels[flipped]
    sureness = reference.margin[flipped] + candidate.margin[flipped]
    order = flipped[np.lexsort((-sureness, ~lost))][:count]

    def name(label: int) -> str:
        return names[label] if label < len(names) else str(label)

    return [
        Flip(
            position=int(row),
            index=int(comparison.indices[row]),
            image=identity(int(comparison.indices[row])),
            label=name(int(comparison.labels[row])),
            reference=name(int(reference.predicted[row])),
            candidate=name(int(candidate.predicted[row])),
            reference_margin=float(reference.margin[row]),
            candidate_margin=float(candidate.margin[row]),
            lost=bool(reference.predicted[row] == comparison.labels[row]),
        )
        for row in order
    ]


def check_suffix(path: Path) -> str:
    """The picture format that Pillow writes for the suffix. Raises `UsageError` if there is none."""
    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise UsageError(f"--contact-sheet {path}: expected a picture's suffix as .png or .jpg, found {path.suffix!r}")
    return known[path.suffix.lower()]


def write_contact_sheet(path: Path, flips: Sequence[Flip], dataset: Dataset, title: str) -> None:
    """Write the flipped images with their three classes, as PNG or in the format that `check_suffix` finds."""
    blob = io.BytesIO()
    draw_contact_sheet(flips, dataset, title).save(blob, format=check_suffix(path))
    write_file(path, blob.getvalue())


def draw_contact_sheet(flips: Sequence[Flip], dataset: Dataset, title: str) -> Image.Image:
    """The picture: equal tiles with label, reference and candidate as captions; green is right, red is wrong.

    Without flips it is the title and a line that says so.
    """
    columns = min(_COLUMNS, max(3, len(flips)))
    rows = -(-len(flips) // columns)
    height = _TILE + 3 * _LINE + _GAP + 6
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, rows * height + 2 * _LINE + 3 * _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT)
    draw.text((_GAP, _GAP), _fit(draw, title, sheet.width - 2 * _GAP, font), _INK, font)
    draw.text((_GAP, _GAP + _LINE), "label / reference / engine" if flips else _NO_FLIPS, _GREY, font)
    for place, flip in enumerate(flips):
        left = _GAP + place % columns * (_TILE + _GAP)
        top = 2 * _LINE + 2 * _GAP + place // columns * height
        sheet.paste(_tile(next(dataset.select([flip.position]).batches(1)).frames[0]), (left, top))
        for line, (text, colour) in enumerate(_captions(flip)):
            draw.text((left, top + _TILE + 2 + line * _LINE), _fit(draw, text, _TILE, font), colour, font)
    return sheet


def _captions(flip: Flip) -> list[tuple[str, tuple[int, int, int]]]:
    def colour(answer: str) -> tuple[int, int, int]:
        return _GREEN if answer == flip.label else _RED

    return [
        (f"{flip.label}  #{flip.index}", _GREY),
        (f"{flip.reference}  (+{flip.reference_margin:.2g})", colour(flip.reference)),
        (f"{flip.candidate}  (+{flip.candidate_margin:.2g})", colour(flip.candidate)),
    ]


def _tile(frame: UInt8Array) -> Image.Image:
    picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert("RGB")
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (_TILE, _TILE), (235, 235, 235))
    nearest = scale >= 2  # an enlarged small picture shows its own pixels
    resized = picture.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)
    tile.paste(resized, ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    return tile


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """`text`, shortened by an ellipsis in its middle if it is wider than `width` pixels."""
    if draw.textlength(text, font) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        cut = f"{text[: (keep + 1) // 2]}...{text[len(text) - keep // 2 :]}"
        if draw.textlength(cut, font) <= width:
            return cut
    return ""
