"""Are classes only renamed? The usual orders are tried directly; any other renaming is learnt from half of the images.

A renaming is reported if it makes significantly more answers right, corrected for the number of trials, and if it is
not just a few classes that a weak network confuses. `resnetrt.benchmarks.studies.hints` measures how often this blames
a sound network, and how often it finds a planted renaming.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from resnetrt.benchmarks.accuracy.gate import gain_p
from resnetrt.benchmarks.evaluate.improvement import Improvement, beats_chance, improvement
from resnetrt.calibration.images.data import IntArray, rank_in_group

LEVEL = 3e-3  # significance level of all renamings together
_WHOLE = 1.3  # least factor of balanced accuracy, for a network that knows nothing about the classes as named
_NEARLY_ALL = 0.87  # least share of gains among changed images, for a network that knows the classes as named
_TIE = 1e-6  # among renamings that agree equally well, prefer the one that renames less


@dataclass(frozen=True)
class Renaming:
    """Answer `c` stands for the class `meaning[c]`; `order` names a usual order, and is empty for a learnt renaming."""

    meaning: IntArray
    order: str
    moved: IntArray
    gain: Improvement


def label_map(expected: IntArray, predicted: IntArray, classes: int, names: Sequence[str], what: str) -> str | None:
    """The renaming of the `classes` after which `found` `(n,)` agrees with `expected`; None if there is none."""
    renaming = find_renaming(expected, predicted, classes, names)
    if renaming is None:
        return None

    def name(label: int) -> str:
        return names[label] if label < len(names) else str(label)

    moved, order = renaming.moved, f"{renaming.order}: " if renaming.order else ""
    examples = ", ".join(f"{name(int(label))} means {name(int(renaming.meaning[label]))}" for label in moved[:3])
    return (
        f"label map: {what} agree on {renaming.gain.before:.0%} of images, on {renaming.gain.after:.0%} once "
        f"{len(moved)} classes are renamed ({order}{examples}{', ...' if len(moved) > 3 else ''}); "
        "check the order of the class names"
    )


def can_learn() -> bool:
    """Whether any renaming can be learnt, which takes scipy; without it, only the usual orders are tried."""
    return importlib.util.find_spec("scipy") is not None


def find_renaming(expected: IntArray, predicted: IntArray, classes: int, names: Sequence[str] = ()) -> Renaming | None:
    """The renaming that explains the answers best, or None; images of a single class show no renaming."""
    if len(np.unique(expected)) < 2:
        return None
    tries = [_try(expected, predicted, meaning, order) for order, meaning in _orders(classes, names)]
    halves = 2 if classes > 2 and can_learn() else 0  # two classes have only one other order
    level = LEVEL / (len(tries) + halves)
    second = rank_in_group(expected) % 2 == 1  # split every class in two halves, whatever the order of the images
    for learn, test in ((~second, second), (second, ~second))[:halves]:
        meaning = _learn(expected[learn], predicted[learn], classes)
        tested = test & np.isin(predicted, predicted[learn])  # nothing was learnt about other answers
        tries += [_try(expected[tested], predicted[tested], meaning, "")] if tested.any() else []
    knows = beats_chance(predicted == expected, expected)
    good = [item for item in tries if len(item.moved) > 1 and _explains(item.gain, level, knows)]
    return min(good, key=lambda item: item.gain.p, default=None)


def _orders(classes: int, names: Sequence[str]) -> Iterator[tuple[str, IntArray]]:
    """The wrong orders that classes usually get by mistake, each once."""
    right = np.arange(classes)
    as_text = np.array(sorted(range(classes), key=str))
    usual = [
        ("the order is reversed", right[::-1].copy()),
        ("every number is one too high", (right - 1) % classes),
        ("every number is one too low", (right + 1) % classes),
        ("numbers were sorted as text", as_text),
        ("numbers were sorted as text", np.argsort(as_text)),
    ]
    if len(names) == classes:
        by_name = np.array(sorted(range(classes), key=names.__getitem__))
        usual += [("names were sorted", by_name), ("names were sorted", np.argsort(by_name))]
    seen = {right.tobytes()}
    for order, meaning in usual:
        if meaning.tobytes() not in seen:
            seen.add(meaning.tobytes())
            yield order, meaning


def _learn(expected: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """The one-to-one renaming that agrees best; classes that were not seen keep their names.

    Only classes that have images are renamed. Otherwise the name of a class without images could go, at no cost, to a
    class that a sound network confuses with it.
    """
    from scipy.optimize import linear_sum_assignment

    labels, column = np.unique(expected, return_inverse=True)
    known = np.isin(predicted, labels)
    counts = np.eye(len(labels)) * _TIE
    np.add.at(counts, (np.searchsorted(labels, predicted[known]), column[known]), 1)
    answers, meant = linear_sum_assignment(counts, maximize=True)
    seen = counts[answers, meant] > _TIE
    meaning = np.arange(classes)
    meaning[labels[answers[seen]]] = labels[meant[seen]]
    return meaning


def _try(expected: IntArray, predicted: IntArray, meaning: IntArray, order: str) -> Renaming:
    renamed = meaning[predicted]
    moved = np.unique(predicted[renamed != predicted])
    if not beats_chance(renamed == expected, expected):  # a ruined engine's answers mean nothing under any names
        moved = moved[:0]
    return Renaming(meaning, order, moved, improvement(predicted == expected, renamed == expected, expected))


def _explains(gain: Improvement, level: float, knows: bool) -> bool:
    """Whether the answers get significantly better, and a weak network's own confusions can't be the reason.

    If siblings are renamed, a network that is right on a fifth of the images and confuses siblings gains up to six
    images for each one it loses. So if it `knows` its classes as they are named, nearly all changes must be gains.
    """
    if gain.p > level:
        return False
    if knows:
        return gain_p(gain.gained, gain.lost, _NEARLY_ALL) <= level
    return gain.after >= _WHOLE * gain.before
