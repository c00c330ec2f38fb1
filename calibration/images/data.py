"""Labelled images for calibration and evaluation: a folder, an `.npz`, or a set embedded in the package.

Every source gives the same thing: uint8 frames after the one preprocessing, in batches, in a fixed order.
"""

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from resnetrt.calibration.images.class_labels import assign_labels
from resnetrt.calibration.images.folder import FolderSource, list_labelled, list_unlabelled
from resnetrt.calibration.images.npz import ArraySource, read_npz
from resnetrt.errors import DataError, UsageError
from resnetrt.preprocess import Preprocessing, UInt8Array

IntArray = npt.NDArray[np.int64]
NO_LABEL = -1


@dataclass(frozen=True)
class Batch:
    """`frames` uint8 `(n, H, W, C)`, maybe a read-only view; `labels` and `indices` `(n,)`.

    An index is the image's place in the data set as opened, whatever subset it came through.
    """

    frames: UInt8Array
    labels: IntArray
    indices: IntArray


class ImageSource(Protocol):
    """Where frames come from; indices are rows of the whole source."""

    def identity(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def content(self, index: int) -> bytes:
        """Image `index` as it is stored, for a hash."""
        ...

    def batches(self, indices: IntArray, size: int) -> Iterator[UInt8Array]:
        """Yield the frames of `indices`, in order, at most `size` at a time."""
        ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in a fixed order. `labels` `(N,)` are `NO_LABEL` where unknown; `groups` `(N,)` is what `subset` balances.

    `label_order` says how class folders became labels: `name`, `number`, `sorted`, or `given` by the data.
    """

    name: str
    labels: IntArray
    class_names: tuple[str, ...]
    indices: IntArray
    groups: IntArray
    source: ImageSource
    label_order: str = "given"

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != NO_LABEL).all())

    def identity(self, index: int) -> str:
        """The path or row of the image that batches call `index`, for messages."""
        return self.source.identity(index)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all images in order, `size` at a time, the last batch maybe smaller.

        Memory is bounded by a few batches for a folder. Raises `DataError` naming the image that can't be decoded.
        """
        if size < 1:
            raise UsageError(f"batch size: expected a positive number, found {size}")
        start = 0
        for frames in self.source.batches(self.indices, size):
            stop = start + len(frames)
            yield Batch(frames, self.labels[start:stop], self.indices[start:stop])
            start = stop

    def select(self, positions: npt.ArrayLike) -> "Dataset":
        """The images at `positions` `(k,)` of this data set, in that order; for example `range(done, len(data))`."""
        at = np.asarray(positions, np.int64)
        return replace(self, labels=self.labels[at], indices=self.indices[at], groups=self.groups[at])

    def subset(self, count: int, seed: int = 0) -> "Dataset":
        """`count` images with classes as equal as the data allows; every prefix is balanced too.

        The same seed gives the same images. Raises `UsageError` if there are fewer than `count`.
        """
        if not 1 <= count <= len(self):
            raise UsageError(f"data {self.name}: expected 1 to {len(self)} images to choose, found {count}")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.select(order[np.argsort(rank_in_group(self.groups[order]), kind="stable")][:count])


def open_dataset(
    spec: str,
    preprocessing: Preprocessing,
    labels: Sequence[str] = (),
    *,
    classes: int | None = None,
    labelled: bool = True,
    nested: bool = False,
) -> Dataset:
    """Open the image folder, `.npz` or embedded set `spec` for a model with class names `labels`.

    `classes` is the model's number of outputs, by default as many as `labels`; None checks no range. With `labelled`
    false, images without labels are accepted and no label is given. If `nested`, class folders may hold folders of
    images. Raises `DataError` for whatever can't be used.
    """
    classes = classes if classes is not None else len(labels) or None
    path = _embedded_sets().get(spec) or Path(spec)
    if not spec:
        raise _not_data("''", path)
    if path.is_dir():
        return _open_folder(path, preprocessing, labels, classes, labelled, nested)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _open_npz(spec, path, preprocessing, labels, classes, labelled)
    raise _not_data(spec, path)


def embedded_names() -> tuple[str, ...]:
    """Names of the image sets inside the package."""
    return tuple(sorted(_embedded_sets()))


def pixel_hash(frame: UInt8Array) -> str:
    """Hex SHA-256 of a frame's pixels `(H, W, C)` and shape; the same for any file format that decodes alike."""
    digest = hashlib.sha256(repr(tuple(map(int, frame.shape))).encode())
    digest.update(np.ascontiguousarray(frame, np.uint8).data)
    return digest.hexdigest()


def _open_folder(
    path: Path, preprocessing: Preprocessing, labels: Sequence[str], classes: int | None, labelled: bool, nested: bool
) -> Dataset:
    listing = list_labelled(path, nested) if labelled else list_unlabelled(path)
    source = FolderSource(listing.files, preprocessing)
    indices = np.arange(len(listing.files), dtype=np.int64)
    if not labelled:
        unknown = np.full(len(indices), NO_LABEL, np.int64)
        return Dataset(str(path), unknown, tuple(labels), indices, listing.folder_of, source)
    assigned = assign_labels(listing.folders, labels, classes, str(path))
    given = np.asarray(assigned.indices, np.int64)[listing.folder_of]
    return Dataset(str(path), given, assigned.names, indices, listing.folder_of, source, assigned.order)


def _open_npz(
    spec: str, path: Path, preprocessing: Preprocessing, labels: Sequence[str], classes: int | None, labelled: bool
) -> Dataset:
    images, y = read_npz(path, labelled)
    indices = np.arange(len(images), dtype=np.int64)
    unknown = np.full(len(images), NO_LABEL, np.int64)
    if labelled and y is not None and classes is not None and (y >= classes).any():
        row = int(np.argmax(y >= classes))
        raise DataError(
            f"data {spec}: y: expected labels 0 to {classes - 1} for the model's {classes} classes, found {y[row]} "
            f"at row {row}; use the data of this model"
        )
    given = y if labelled and y is not None else unknown
    groups = y if y is not None else unknown
    return Dataset(spec, given, tuple(labels), indices, groups, ArraySource(images, preprocessing, spec))


def _embedded_sets() -> dict[str, Path]:
    folder = Path(str(resources.files("resnetrt.calibration.images")))
    return {path.stem: path for path in folder.glob("*.npz")}


def _not_data(spec: str, path: Path) -> DataError:
    expected = "an image folder, an .npz file or an embedded set"
    if path.exists():
        return DataError(f"data {spec}: expected {expected}, found another kind of file; unpack or convert it")
    try:
        siblings = [str(other) for other in path.parent.iterdir()]
    except OSError:
        siblings = []
    near = difflib.get_close_matches(spec, [*embedded_names(), *siblings], n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"embedded sets: {', '.join(embedded_names()) or 'none'}"
    return DataError(f"data {spec}: expected {expected}, found nothing there; {hint}")


def rank_in_group(groups: IntArray) -> IntArray:
    """For each item how many of its group come before it."""
    order = np.argsort(groups, kind="stable")
    _, first, members = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(first, members)
    return rank
