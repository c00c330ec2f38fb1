"""Arrays of images and labels in an `.npz`: `x` uint8 `(N, H, W, C)` or `(N, H, W)`, `y` integer `(N,)`."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resnetrt.calibration.images.stream import ordered_map
from resnetrt.errors import DataError
from resnetrt.preprocess import Preprocessing, UInt8Array

_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


class ArraySource:
    """Frames of an array `(N, H, W, C)`; those of the model's own size and channels are passed as they are."""

    def __init__(self, images: UInt8Array, preprocessing: Preprocessing, where: str) -> None:
        self._images = images
        self._images.flags.writeable = False
        self._preprocessing = preprocessing
        self._where = where

    def identity(self, index: int) -> str:
        """File and row of image `index`."""
        return f"{self._where}[{index}]"

    def content(self, index: int) -> bytes:
        """The shape and the pixels of row `index`."""
        pixels: bytes = self._images[index].tobytes()
        return repr(self._images.shape[1:]).encode() + pixels

    def batches(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[UInt8Array]:
        """Yield uint8 `(n, H, W, C)`; read-only views of the array where no conversion and no gathering is needed."""
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            frames = self._gather(chosen)
            yield frames if self._fits else self._convert(frames)

    @property
    def _fits(self) -> bool:
        return self._images.shape[1:] == (*self._preprocessing.size, self._preprocessing.channels)

    def _gather(self, chosen: npt.NDArray[np.int64]) -> UInt8Array:
        first, last = int(chosen[0]), int(chosen[-1])
        if last - first + 1 == len(chosen) and (np.diff(chosen) == 1).all():
            return self._images[first : last + 1]
        return self._images[chosen]

    def _convert(self, frames: UInt8Array) -> UInt8Array:
        return np.stack(list(ordered_map(self._preprocessing.frame_from_array, frames, 2 * len(frames))))


def read_npz(path: Path, labelled: bool) -> tuple[UInt8Array, npt.NDArray[np.int64] | None]:
    """`x` as `(N, H, W, C)` and `y` as int64 `(N,)`; `y` may be missing (None) unless `labelled`.

    Raises `DataError` for a damaged file and for missing or malformed arrays. Nothing is ever unpickled.
    """
    try:
        with path.open("rb") as file:  # numpy leaves a file that it can't read open
            x, y = _read_arrays(np.load(file, allow_pickle=False), path, labelled)
    except _UNREADABLE as error:
        raise DataError(f"data {path}: expected a readable .npz, found {_cause(error)}; save it again") from error
    except MemoryError as error:
        raise DataError(f"data {path}: its arrays do not fit into memory ({error}); use an image folder") from error
    images = _check_images(x, path)
    return images, None if y is None else _check_labels(y, len(images), path)


def _read_arrays(
    archive: object, path: Path, labelled: bool
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic] | None]:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"data {path}: expected an .npz archive with x and y, found a single array; use np.savez")
    missing = [name for name in (("x", "y") if labelled else ("x",)) if name not in archive.files]
    if missing:
        stored = ", ".join(archive.files) or "nothing"
        raise DataError(f"data {path}: expected arrays x and y, found {stored}; save {' and '.join(missing)} too")
    return archive["x"], archive["y"] if "y" in archive.files else None


def _cause(error: Exception) -> str:
    text = str(error)
    if "allow_pickle" in text or "pickled" in text:
        return "Python objects or no archive at all"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_images(x: npt.NDArray[np.generic], path: Path) -> UInt8Array:
    where = f"data {path}: x"
    if x.dtype != np.uint8:
        raise DataError(f"{where}: expected uint8 pixels 0 to 255, found {x.dtype}; save the original pixels")
    if x.ndim not in (3, 4):
        raise DataError(f"{where}: expected shape (N, H, W, C) or (N, H, W), found {x.shape}; reshape it")
    images = np.asarray(x[..., None] if x.ndim == 3 else x, np.uint8)
    if len(images) == 0:
        raise DataError(f"{where}: expected images, found zero; save at least one")
    if images.shape[3] not in (1, 3, 4):
        first = images.shape[1] in (1, 3, 4)
        hint = "channels come last: x.transpose(0, 2, 3, 1)" if first else "reshape it"
        raise DataError(f"{where}: expected 1, 3 or 4 channels in the last axis, found shape {x.shape}; {hint}")
    if min(images.shape) == 0:
        raise DataError(f"{where}: expected pixels, found shape {x.shape}; save the images again")
    return images


def _check_labels(y: npt.NDArray[np.generic], count: int, path: Path) -> npt.NDArray[np.int64]:
    where = f"data {path}: y"
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where}: expected integers of shape (N,), found {y.dtype} {y.shape}; save class indices")
    if len(y) != count:
        raise DataError(
            f"{where}: expected {count} labels, one for each image in x, found {len(y)}; save them together"
        )
    wide = y.astype(np.int64)
    if (wide < 0).any():  # also what of uint64 does not fit
        row = int(np.argmax(wide < 0))
        raise DataError(f"{where}: expected labels from 0, found {y[row]} at row {row}; correct it")
    return wide
