"""Image folders: scanned once, decoded as a stream by all cores.

Labelled: one subfolder per class. Unlabelled: images directly inside, or subfolders whose names mean nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from resnetrt.calibration.images.stream import ordered_map
from resnetrt.errors import DataError
from resnetrt.image_files import is_hidden_name, is_image_name
from resnetrt.preprocess import Preprocessing, UInt8Array


@dataclass(frozen=True)
class FolderListing:
    """Images of a folder: `files[i]` belongs to subfolder `folders[folder_of[i]]`; no subfolders, no `folders`."""

    files: tuple[Path, ...]
    folders: tuple[str, ...]
    folder_of: npt.NDArray[np.int64]


class FolderSource:
    """Frames decoded from files, in bounded memory."""

    def __init__(self, files: tuple[Path, ...], preprocessing: Preprocessing) -> None:
        self._files = files
        self._preprocessing = preprocessing

    def identity(self, index: int) -> str:
        """The path of image `index`."""
        return str(self._files[index])

    def content(self, index: int) -> bytes:
        """The bytes of the file. Raises `DataError` if it can't be read."""
        try:
            return self._files[index].read_bytes()
        except OSError as error:
            raise DataError(f"data {self._files[index]}: expected a readable image, found: {error.strerror}") from error

    def batches(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[UInt8Array]:
        """Yield new uint8 `(n, H, W, C)` of at most `size` images; the next batch is decoded meanwhile."""
        files = (self._files[index] for index in indices)
        look_ahead = 2 * max(size, len(os.sched_getaffinity(0)))
        frames = ordered_map(self._preprocessing.frame_from_file, files, look_ahead)
        try:
            for start in range(0, len(indices), size):
                batch = np.empty((min(size, len(indices) - start), *self._shape), np.uint8)
                for row in batch:
                    row[...] = next(frames)
                yield batch
        finally:
            frames.close()

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (*self._preprocessing.size, self._preprocessing.channels)


def list_labelled(root: Path, nested: bool = False) -> FolderListing:
    """The images of `root/<class>/`, and if `nested` of the folders in there.

    Raises `DataError` for anything that is neither a class folder nor an image.
    """
    folders, files = _scan(root)
    loose = next((path for path in files if is_image_name(path)), None)
    if not folders:
        content = "images directly in it, so no labels" if loose else "neither folders nor images"
        raise DataError(
            f"data {root}: expected one subfolder per class, found {content}; move them to <class>/ subfolders"
        )
    if loose is not None:
        raise DataError(
            f"data {root}: image {loose.name} lies beside the class folders; move it into its class or away"
        )
    return _list_subfolders(root, folders, nested)


def list_unlabelled(root: Path) -> FolderListing:
    """The images directly in `root`, or else in its subfolders. Raises `DataError` for anything else, or for none."""
    folders, files = _scan(root)
    images = [path for path in files if is_image_name(path)]
    if folders and images:
        raise DataError(
            f"data {root}: expected images either directly in it or in subfolders, found both "
            f"({images[0].name} and {folders[0].name}/); separate them"
        )
    if folders:
        return _list_subfolders(root, folders)
    for path in files:
        _require_image(path)
    if not files:
        raise DataError(f"data {root}: expected images, found none; put images into it")
    return FolderListing(tuple(files), (), np.zeros(len(files), np.int64))


def _list_subfolders(root: Path, folders: list[Path], nested: bool = False) -> FolderListing:
    files: list[Path] = []
    counts = []
    for folder in folders:
        images = _nested_images(root, folder) if nested else _class_images(root, folder)
        files += images
        counts.append(len(images))
    folder_of = np.repeat(np.arange(len(folders), dtype=np.int64), counts)
    return FolderListing(tuple(files), tuple(folder.name for folder in folders), folder_of)


def _class_images(root: Path, folder: Path) -> list[Path]:
    nested, files = _scan(folder)
    if nested:
        hint = f"point to {folder} instead" if not files else f"move {nested[0]} away"
        raise DataError(
            f"data {root}: class folder {folder.name} holds a folder, {nested[0].name}; expected images: {hint}"
        )
    if not files:
        raise DataError(f"data {root}: class folder {folder.name} is empty; put images into it or remove it")
    for path in files:
        _require_image(path)
    return files


def _nested_images(root: Path, folder: Path) -> list[Path]:
    """The images in `folder` and in the folders inside it, of which none may hold more folders."""
    inside, files = _scan(folder)
    if not inside:
        return _class_images(root, folder)
    for path in files:
        _require_image(path)
    return files + [path for group in inside for path in _class_images(root, group)]


def _scan(folder: Path) -> tuple[list[Path], list[Path]]:
    """Subfolders and files by name, without hidden and system ones."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden_name(entry.name):
                    continue
                (folders if entry.is_dir() else files).append(folder / entry.name)
    except OSError as error:
        raise DataError(f"data {folder}: expected a readable folder, found: {error.strerror}; check it") from error
    return sorted(folders), sorted(files)


def _require_image(path: Path) -> None:
    """Known suffixes are believed until they are decoded; for others the content decides."""
    if is_image_name(path) and path.is_file():
        return
    try:
        if path.is_file():
            with Image.open(path):
                return
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError):
        pass
    kind = "no image" if path.is_file() else "no readable file"
    raise DataError(f"data {path}: expected an image, found {kind}; remove it")
