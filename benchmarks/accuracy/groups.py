"""Images that are not independent: copies of one image, or near-identical images of one video or burst.

A group counts as one image whose outcome is the mean of its images' outcomes. However the images of a group depend on
each other, this mean varies no more than a single image (Jensen's inequality: its square is at most the mean of the
squares). So tests for independent images hold with the number of groups as the number of images; they are exact if all
images of a group have the same outcome.
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
    """The number of each image's group `(N,)`, from its folder or from the match of a regular expression in its path.

    The path is relative to the data's folder. The name of the group is the expression's first capturing group, or else
    the whole match. Raises `UsageError` for an invalid expression, `DataError` for images without paths or without a
    group.
    """
    pattern = None if group_by == FOLDER else _compiled(group_by)
    if not Path(dataset.name).is_dir():
        raise DataError(f"--group-by: expected an image folder, found {dataset.name}, whose images have no paths")
    root = Path(dataset.name)
    paths = [Path(dataset.identity(int(index))).relative_to(root) for index in dataset.indices]
    keys = [_folder(path, root) if pattern is None else _found(pattern, path) for path in paths]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def group_weights(groups: IntArray | None, count: int) -> npt.NDArray[np.float64]:
    """The weight of each of `count` images, so that the weights of every group sum to 1."""
    if groups is None:
        return np.ones(count)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / sizes[place], np.float64)


def net_winners(first: Bools, second: Bools, groups: IntArray | None) -> tuple[int, int]:
    """In how many groups the first is right on more images than the second, and in how many the second is.

    If the two are equally good, either wins an undrawn group with a probability of one half, so exact tests hold.
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
