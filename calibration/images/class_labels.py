"""Which label index each class folder stands for: by name, by number, or by sorted order, never by a guess."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from resnetrt.errors import DataError


@dataclass(frozen=True)
class ClassLabels:
    """`indices[i]` is the label of folder `i`, `names[label]` its class; `order` is `name`, `number` or `sorted`."""

    indices: tuple[int, ...]
    names: tuple[str, ...]
    order: str


def assign_labels(folders: Sequence[str], labels: Sequence[str], classes: int | None, where: str) -> ClassLabels:
    """Label indices for class folders of a model with `labels` (may be empty) and `classes` (None: any number).

    By name where any folder bears a label's name (case and punctuation aside), and then all must; by number where all
    names are numbers below `classes`; else by sorted order if there are as many folders as classes.
    Raises `DataError` naming the folder that fits nothing.
    """
    by_name = _by_name(folders, labels, where)
    if by_name is not None:
        return ClassLabels(by_name, tuple(labels), "name")
    numbers = _numbers(folders)
    if numbers is not None and max(numbers) < (classes or len(folders)):
        count = classes or len(folders)
        return ClassLabels(numbers, tuple(labels) or tuple(map(str, range(count))), "number")
    if classes is not None and len(folders) != classes:
        expected = f"{classes} class folders, or folders named after the classes ({_some(labels)})"
        raise DataError(
            f"data {where}: expected {expected}, found {len(folders)} ({_some(folders)}); "
            "rename the folders or use a model with as many classes"
        )
    ranked = sorted(range(len(folders)), key=lambda i: (numbers[i] if numbers else 0, folders[i]))
    indices = tuple(ranked.index(i) for i in range(len(folders)))
    return ClassLabels(indices, tuple(labels) or tuple(folders[i] for i in ranked), "sorted")


def _by_name(folders: Sequence[str], labels: Sequence[str], where: str) -> tuple[int, ...] | None:
    exact = _unique(labels)
    plain = _unique([_plain(label) for label in labels])
    indices = [exact.get(folder, plain.get(_plain(folder))) for folder in folders]
    if all(index is None for index in indices):
        return None
    for folder, index in zip(folders, indices, strict=True):
        if index is None:
            near = difflib.get_close_matches(_plain(folder), [key for key in plain if key], n=1, cutoff=0.6)
            hint = f"did you mean {labels[plain[near[0]]]!r}?" if near else f"known are {_some(labels)};"
            raise DataError(
                f"data {where}: class folder {folder!r} is no class of the model; {hint} rename or remove it"
            )
    for index, count in Counter(indices).items():
        if count > 1:
            twins = [folder for folder, other in zip(folders, indices, strict=True) if other == index]
            raise DataError(f"data {where}: folders {' and '.join(map(repr, twins))} name the same class; merge them")
    return tuple(index for index in indices if index is not None)


def _unique(names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if name and counts[name] == 1}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _numbers(folders: Sequence[str]) -> tuple[int, ...] | None:
    if not all(folder.isascii() and folder.isdecimal() for folder in folders):
        return None
    numbers = tuple(map(int, folders))
    return numbers if len(set(numbers)) == len(numbers) else None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, ..." if len(names) > 4 else shown or "no names known"
