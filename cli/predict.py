"""`resnetrt predict`: labels and probabilities of images, a folder, a camera or a video."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import WORDS, bundle_argument, device_option, json_option
from resnetrt.cli.output import emit_json, print_table
from resnetrt.errors import DataError, UsageError
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.bundle import Bundle
    from resnetrt.preprocess import UInt8Array
    from resnetrt.runtime.predict.side_by_side import EngineAnswer, PictureAnswers, SideBySide

_PATH = click.Path(path_type=Path)


@click.command("predict")
@bundle_argument
@click.argument("files", nargs=-1, type=_PATH)
@click.option("--camera", metavar="NUMBER|FILE", help="Frames of camera 0, of /dev/video0, or of a video file.")
@click.option("--frames", type=click.IntRange(1), help="Frames of a camera or video at most. Default: to its end.")
@click.option(
    "--engine",
    "engines",
    type=WORDS,
    multiple=True,
    help="Engine id; may be repeated. Default: all that run here.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to show of each image.")
@device_option
@json_option
def command(
    bundle: Path,
    files: tuple[Path, ...],
    camera: str | None,
    frames: int | None,
    engines: tuple[tuple[str, ...], ...],
    top: int,
    as_json: bool,
) -> int:
    """Classes of FILES: images, folders with all images below them, a camera's device or a video file.

    Images that can't be read are named and left out, and the exit code is 1. Times are from a frame to its logits.
    """
    from resnetrt.bundle import Bundle
    from resnetrt.runtime.predict.pictures import list_pictures
    from resnetrt.runtime.predict.side_by_side import SideBySide, Tally

    video = _video(files, camera)
    _check_frames(video, frames, as_json)
    pictures = list_pictures(files) if video is None else []
    stream = None if video is None else _open(video, frames)
    skipped: list[dict[str, str]] = []
    kept: list[PictureAnswers] = []
    opened, named = Bundle.open(bundle), tuple(itertools.chain(*engines))
    with SideBySide(opened, named or _all_here(opened)) as side:
        tally = Tally(side.engines)
        answers = (
            _of_files(side, pictures, top, skipped) if stream is None else _of_frames(side, stream, str(video), top)
        )
        try:
            for picture in answers:
                tally.add(picture)
                if as_json or stream is None:  # a camera's would fill the memory
                    kept.append(picture)
                else:
                    click.echo(_line(picture))
        except KeyboardInterrupt:  # how a camera is ended
            if stream is None or not tally.count:
                raise
            show("stopped")
    summary = tally.to_json()
    if as_json:
        rows = [picture.to_json() for picture in kept]
        emit_json({"bundle": str(bundle), "top": top, "engines": summary, "images": rows, "skipped": skipped})
    else:
        _print(kept, summary)
    if skipped:
        show(f"{len(skipped)} of {len(pictures)} images were left out")
    return 1 if skipped else 0


def _all_here(bundle: "Bundle") -> tuple[str, ...]:
    """All engines that can run here, side by side; the others are named. Raises what `engines_here` does."""
    from resnetrt.export.engines.here import engines_here

    here, elsewhere = engines_here(bundle)
    for engine, why in elsewhere.items():
        show(f"{engine} is left out: {why}")
    return tuple(here)


def _video(files: Sequence[Path], camera: str | None) -> Path | None:
    """The video to read instead of images, if one is meant. Raises `UsageError` unless there is one kind of input."""
    from resnetrt.runtime.predict.video import camera_path, is_video

    videos = [path for path in files if is_video(path)]
    if camera is not None and files:
        raise UsageError("--camera: expected either FILES or a camera, found both; leave one out")
    if camera is None and not files:
        raise click.UsageError("Missing argument 'FILES...'; name images, folders or a video, or give --camera 0")
    if len(files) > 1 and videos:
        raise UsageError(f"video {videos[0]}: expected one video alone, found {len(files)} files; name it alone")
    if camera is not None:
        return camera_path(camera)
    return videos[0] if videos else None


def _check_frames(video: Path | None, frames: int | None, as_json: bool) -> None:
    """Raise `UsageError` for frames of images, and for an object that would never be complete."""
    if video is None and frames is not None:
        raise UsageError("--frames: expected a camera or a video, found images; leave it out")
    if video is not None and video.is_char_device() and as_json and frames is None:
        raise UsageError("--json: a camera has no end, and its object is printed there; say how many with --frames")


def _open(video: Path, frames: int | None) -> "Iterator[UInt8Array]":
    from resnetrt.runtime.predict.video import open_video

    return itertools.islice(open_video(video), frames)


def _of_files(
    side: "SideBySide", pictures: Sequence[Path], top: int, skipped: list[dict[str, str]]
) -> "Iterator[PictureAnswers]":
    """The answers for each file that can be read; the others are named, and raise `DataError` if there are no more."""
    from resnetrt.progress import track

    for path in track(pictures, "predict", len(pictures), "images"):
        try:
            yield side.predict(path, str(path), top)
        except DataError as error:
            if len(pictures) == len(skipped) + 1:
                raise
            skipped.append({"image": str(path), "reason": str(error)})
            show(f"left out: {error}")


def _of_frames(side: "SideBySide", frames: "Iterator[UInt8Array]", source: str, top: int) -> "Iterator[PictureAnswers]":
    """The answers for each frame."""
    for number, frame in enumerate(frames, 1):
        yield side.predict(frame, f"{source} frame {number}", top)


def _line(picture: "PictureAnswers") -> str:
    """A frame on one line, for a reader who watches."""
    several = len(picture.answers) > 1
    parts = []
    for answer in picture.answers:
        classes = "; ".join(f"{item.name} {item.probability:.1%}" for item in answer.classes)
        parts.append(f"{answer.engine + ': ' if several else ''}{classes}  {answer.ms:.2f} ms")
    verdict = {None: "", True: "  same", False: "  DIFFERENT"}[picture.agree]
    return f"{picture.image}  {' | '.join(parts)}{verdict}"


def _print(kept: "Sequence[PictureAnswers]", summary: Sequence[dict[str, Any]]) -> None:
    several = len(summary) > 1
    if kept:
        columns = [name for row in summary for name in (row["engine"], "ms")]
        header = ("image", "", *columns, *(("top-1",) if several else ()))
        print_table("", header, [cells for item in kept for cells in _cells(item)])
    if several or len(kept) != 1:
        header = ("engine", "images", "median ms", f"top-1 as {summary[0]['engine']}")
        rows = [
            (row["engine"], str(row["images"]), _number(row["median_ms"], ".2f"), _number(row["agreement"], ".1%"))
            for row in summary
        ]
        shown = len(header) if several else 3
        print_table("", header[:shown], [row[:shown] for row in rows])


def _cells(picture: "PictureAnswers") -> "Iterator[tuple[str, ...]]":
    """Rows of the table: one for each rank, name and times on the first."""
    verdict = {None: (), True: ("same",), False: ("DIFFERENT",)}[picture.agree]
    for rank in range(len(picture.answers[0].classes)):
        first = rank == 0
        cells = [
            cell for answer in picture.answers for cell in (_class(answer, rank), f"{answer.ms:.2f}" if first else "")
        ]
        yield picture.image if first else "", str(rank + 1), *cells, *(verdict if first else ("",) * len(verdict))


def _class(answer: "EngineAnswer", rank: int) -> str:
    item = answer.classes[rank]
    return f"{item.name} {item.probability:.1%}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
