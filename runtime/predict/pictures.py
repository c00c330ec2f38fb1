"""Pictures as users have them: files, folders, encoded bytes, arrays."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from resnetrt.errors import DataError
from resnetrt.image_files import is_hidden_name, is_image_name
from resnetrt.preprocess import Preprocessing, UInt8Array

Picture = Path | str | bytes | UInt8Array  # a file by its path, an encoded file, or pixels (H, W, C) or (H, W)


def frame_of(picture: Picture, preprocessing: Preprocessing) -> UInt8Array:
    """The picture as uint8 `(H, W, C)`, resized and cropped as the bundle says; pixels of that size as they are.

    Raises `DataError` for what is no picture.
    """
    if isinstance(picture, np.ndarray):
        return preprocessing.frame_from_array(picture)
    return preprocessing.frame_from_file(picture if isinstance(picture, bytes) else Path(picture))


def one_or_more(pictures: Picture | Iterable[Picture]) -> Sequence[Picture]:
    """The pictures as a sequence: one alone is the only one, an array `(N, H, W, C)` has N."""
    if isinstance(pictures, np.ndarray):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    return [pictures] if isinstance(pictures, str | bytes | Path) else list(pictures)


def list_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` as they are, and of each folder the pictures in it and below it, by name, once each.

    A folder's pictures are known by their suffixes; hidden files are left out. Raises `DataError` for a path that is
    not there, and for a folder without pictures.
    """
    pictures: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = list(_pictures_below(path, set()))
            if not inside:
                raise DataError(f"folder {path}: expected images, found none; name another folder")
            pictures |= dict.fromkeys(inside)
        elif path.is_file():
            pictures[path] = None
        else:
            there = "no file" if path.exists() else "nothing"
            raise DataError(f"image {path}: expected an image file or a folder, found {there}")
    return list(pictures)


def _pictures_below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The pictures in `folder`, then those of its folders; one that links lead to again is read once."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"folder {folder}: expected a readable folder, found: {error.strerror}; check it") from error
    visible = [path for path in entries if not is_hidden_name(path.name)]
    yield from (path for path in visible if is_image_name(path) and path.is_file())
    for path in visible:
        if path.is_dir():
            yield from _pictures_below(path, seen)
