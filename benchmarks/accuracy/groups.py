"""Images that are not independent: copies of one image, and near-identical ones of one video or burst.

A group counts as one image whose outcome is the mean of its images' outcomes. Whatever binds the images of a group, the
mean varies no more than one image would (Jensen's inequality: its square is at most the mean of the squares), so tests
for independent images hold for as many images as there are groups; where a group moves as one they are exact.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resnetrt.calibration.images.data import Dataset, IntArray
from resnetrt.errors import DataError, UsageError

FOLDER = "folder"
Bools = npt.NDArray[np.bool_]


def read_groups(dataset: Dataset, group_by: str) -> IntArray:
    """The number of each image's group `(N,)`: its folder, or what a regular expression finds in its path.

    The path is the one below the data's folder; the expression's first bracket counts, or all of it without one.
    Raises `UsageError` for what is no expression, `DataError` for images without paths, or that fit no group.
    """
    pattern = None if group_by == FOLDER else _compiled(group_by)
    if not Path(dataset.name).is_dir():
        raise DataError(f"--group-by: expected an image folder, found {dataset.name}, whose images have no paths")
    root = Path(dataset.name)
    paths = [Path(dataset.identity(int(index))).relative_to(root) for index in dataset.indices]
    keys = [_folder(path, root) if pattern is None else _found(pattern, path) for path in paths]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def group_weights(groups: IntArray | None, count: int) -> npt.NDArray[np.float64]:
    """What each of `count` images counts, so that every group counts 1."""
    if groups is None:
        return np.ones(count)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / sizes[place], np.float64)


def net_winners(first: Bools, second: Bools, groups: IntArray | None) -> tuple[int, int]:
    """In how many groups the first is right on more images than the second, and the second on more than the first.

    If the two are equally good, each is a fair coin for every group that is not even, so exact tests hold.
    """
    net = first.astype(np.int64) - second
    if groups is not None:
        net = np.bincount(np.unique(groups, return_inverse=True)[1], weights=net).astype(np.int64)
    return int((net > 0).sum()), int((net < 0).sum())


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"--group-by: expected {FOLDER} or a regular expression, found {text!r}: {error}") from error


def _folder(path: Path, root: Path) -> str:
    if len(path.parts) < 3:
        raise DataError(
            f"--group-by {FOLDER}: expected folders inside the class folders, one a group, found image {path} directly "
            f"in its class of {root}; sort the images into folders, or give a regular expression"
        )
    return str(path.parent)


def _found(pattern: re.Pattern[str], path: Path) -> str:
    match = pattern.search(path.as_posix())
    key = None if match is None else match[1 if pattern.groups else 0]
    if key is None:
        raise DataError(f"--group-by {pattern.pattern}: expected a match in every image's path, found none in {path}")
    return str(key)
