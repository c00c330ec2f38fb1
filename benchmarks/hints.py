"""Why an engine failed: the usual mistakes, each tried on a few images.

A mistake in an engine's preprocessing is found by making it in front of the reference: if that reproduces the engine's
answers, it is the cause. A mistake in the data or the bundle's own recipe is found by undoing it: if that makes the
reference right, it was the cause.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.gate import statistics
from resnetrt.benchmarks.latency import Infer
from resnetrt.calibration.data import IntArray
from resnetrt.parity import sqnr_db
from resnetrt.preprocess import FloatArray, Preprocessing, UInt8Array

IMAGES = 96
_ENOUGH = 40  # images that a permutation of classes is tested on
Transform = Callable[[FloatArray, UInt8Array, Preprocessing], FloatArray]


@dataclass(frozen=True)
class Mistake:
    """A wrong way to prepare images; `apply` maps right inputs and their frames to wrong ones."""

    words: str
    apply: Transform


def _channels(values: Sequence[float]) -> FloatArray:
    return np.asarray(values, np.float32)[:, None, None]


MISTAKES = (
    Mistake("red and blue are swapped (BGR for RGB)", lambda x, f, p: np.ascontiguousarray(x[:, ::-1])),
    Mistake(
        "red and blue are swapped (BGR for RGB) before normalisation",
        lambda x, f, p: p.normalize(np.ascontiguousarray(f[..., ::-1])),
    ),
    Mistake("the mean is not subtracted", lambda x, f, p: x + _channels(p.mean) / _channels(p.std)),
    Mistake("pixels are not divided by the standard deviation", lambda x, f, p: x * _channels(p.std)),
    Mistake(
        "mean and standard deviation are missing (pixels are only divided by 255)",
        lambda x, f, p: x * _channels(p.std) + _channels(p.mean),
    ),
    Mistake(
        "pixels are not scaled at all (0 to 255 go in)",
        lambda x, f, p: 255 * (x * _channels(p.std) + _channels(p.mean)),
    ),
    Mistake(
        "pixels are not divided by 255 before mean and standard deviation",
        lambda x, f, p: 255 * x + 254 * _channels(p.mean) / _channels(p.std),
    ),
    Mistake("images are normalised twice", lambda x, f, p: (x - _channels(p.mean)) / _channels(p.std)),
    Mistake("images are mirrored", lambda x, f, p: np.ascontiguousarray(x[..., ::-1])),
    Mistake("height and width are swapped", lambda x, f, p: np.ascontiguousarray(x.swapaxes(2, 3))),
)


def engine_preprocessing(
    candidate: FloatArray, reference: Infer, frames: UInt8Array, preprocessing: Preprocessing
) -> str | None:
    """The mistake that explains an engine's logits `(n, classes)` on `frames`, in words; None if none does."""
    images = preprocessing.normalize(frames)
    as_it_is = sqnr_db(np.asarray(reference(images)), candidate)
    agrees = _agreement(np.asarray(reference(images)), candidate)
    found = []
    for mistake in _fitting(images):
        wrong = np.asarray(reference(mistake.apply(images, frames, preprocessing)))
        found.append((sqnr_db(wrong, candidate), _agreement(wrong, candidate), mistake.words))
    best, agreement, words = max(found)
    if best < max(as_it_is + 6, 8) or agreement < max(agrees, 0.8):
        return None
    return (
        f"preprocessing: {words} on the engine's side: the reference gives the engine's answer for {agreement:.0%} "
        f"of {len(frames)} images when it gets such images, for {agrees:.0%} when it gets right ones"
    )


def reference_preprocessing(
    reference: Infer, frames: UInt8Array, labels: IntArray, preprocessing: Preprocessing
) -> str | None:
    """The other way to prepare images that makes the reference right far more often, in words; None if none does."""
    images = preprocessing.normalize(frames)
    right = np.asarray(reference(images)).argmax(1) == labels
    best, words = right, ""
    for mistake in _fitting(images):
        other = np.asarray(reference(mistake.apply(images, frames, preprocessing))).argmax(1) == labels
        if other.sum() > best.sum():
            best, words = other, mistake.words
    if best.mean() < 0.5 or not _is_better(best, right):  # a little less wrong is no recipe
        return None
    return (
        f"preprocessing of the bundle: the FP32 reference itself is right on {right.mean():.0%} of {len(frames)} "
        f"images as the bundle prepares them, and on {best.mean():.0%} where {words}; "
        "export again with the model's own recipe"
    )


def label_map(expected: IntArray, found: IntArray, names: Sequence[str], what: str) -> str | None:
    """Whether classes are only renamed: `found` `(n,)` agrees with `expected` once renamed; None if not.

    The renaming is learnt on every other image and tested on the rest, so that few images of many classes can't
    suggest one.
    """
    size = int(max(expected.max(), found.max())) + 1
    learn, test = slice(0, None, 2), slice(1, None, 2)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (found[learn], expected[learn]), 1)
    seen = counts[found[test]].sum(1) > 0
    if seen.sum() < _ENOUGH:
        return None
    renamed = counts.argmax(1)
    truth, answers = expected[test][seen], found[test][seen]
    before, after = float((answers == truth).mean()), float((renamed[answers] == truth).mean())
    moved = [label for label in np.unique(answers) if renamed[label] != label]
    common = np.flatnonzero(counts.sum(1) >= 3)
    one_to_one = len(set(renamed[common])) == len(common) > 1  # else classes fall together: broken, not renamed
    better = _is_better(renamed[answers] == truth, answers == truth)
    if not moved or after < 0.7 or 1 - after > 0.5 * (1 - before) or not one_to_one or not better:
        return None

    def name(label: int) -> str:
        return names[label] if label < len(names) else str(label)

    examples = ", ".join(f"{name(int(label))} means {name(int(renamed[label]))}" for label in moved[:3])
    return (
        f"label map: {what} agree on {before:.0%} of images, on {after:.0%} once {len(moved)} classes are renamed "
        f"({examples}{', ...' if len(moved) > 3 else ''}); check the order of the class names"
    )


def _is_better(other: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> bool:
    """Whether `other` `(n,)` is right more often than `right` beyond chance: McNemar's test, one-sided."""
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    return gained > 0 and float(statistics().binom.sf(gained - 1, gained + lost, 0.5)) <= 1e-4


def _fitting(images: FloatArray) -> list[Mistake]:
    """The mistakes that can be made with these images."""
    square = images.shape[2] == images.shape[3]
    grey = images.shape[1] == 1
    return [
        mistake
        for mistake in MISTAKES
        if (square or not mistake.words.startswith("height")) and not (grey and mistake.words.startswith("red"))
    ]


def _agreement(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    return float((first.argmax(1) == second.argmax(1)).mean())
