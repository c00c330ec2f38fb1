"""Why an engine failed: the usual mistakes are tried on a few images.

To find a mistake in an engine's preprocessing, the same mistake is made in front of the reference: if that reproduces
the engine's answers, the mistake is the cause. To find a mistake in the data or in the bundle's preprocessing, it is
undone: if that makes the reference right far more often than luck would, it was the cause.
`resnetrt.benchmarks.studies.hints` measures how often a sound network is blamed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.gate import Right
from resnetrt.benchmarks.evaluate.improvement import class_weights, improvement
from resnetrt.benchmarks.measure.latency import Infer
from resnetrt.calibration.images.data import IntArray
from resnetrt.parity import sqnr_db
from resnetrt.preprocess import FloatArray, Preprocessing, UInt8Array
from resnetrt.progress import track

IMAGES, MOST_IMAGES = 96, 480  # images for trying every mistake, and for testing the one that helps most
LEVEL = 3e-3  # probability of a false finding, over all mistakes together
# The factor by which another recipe must raise the reference's accuracy beyond chance. Under the mistakes below, except
# mirroring, ResNet-20 on Fashion-MNIST falls from 94 % to 51 % or less. On noisy images (sigma 40 of 255: 30 %), where
# no recipe is at fault, a wrong recipe raises the accuracy by a factor of 1.2.
_BETTER = 1.5
Transform = Callable[[FloatArray, UInt8Array, Preprocessing], FloatArray]


@dataclass(frozen=True)
class Mistake:
    """A wrong way to prepare images; `apply` maps correct inputs and their frames to wrong inputs."""

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
    """The mistake that explains an engine's logits `(n, classes)` on `frames`, in words; None if no mistake does."""
    images = preprocessing.normalize(frames)
    right = np.asarray(reference(images))
    as_it_is, agrees = sqnr_db(right, candidate), _agreement(right, candidate)
    mistakes = []
    for mistake in _shown(_fitting(images)):
        wrong = np.asarray(reference(mistake.apply(images, frames, preprocessing)))
        mistakes.append((sqnr_db(wrong, candidate), _agreement(wrong, candidate), mistake.words))
    best, agreement, words = max(mistakes)
    if best < max(as_it_is + 6, 8) or agreement < agrees:
        return None
    return (
        f"preprocessing: {words} on the engine's side: the reference gives the engine's answer for {agreement:.0%} "
        f"of {len(frames)} images when it gets such images, for {agrees:.0%} when it gets right ones"
    )


def leaves_room(right: Right, labels: IntArray) -> bool:
    """Whether answers that are right where `right` `(n,)` says so could be far better by another preprocessing.

    If not, even one that made every answer right would be no cause, and none needs to be tried.
    """
    return _far_better(float(class_weights(labels) @ right), 1.0, labels)


def reference_preprocessing(
    reference: Infer, frames: UInt8Array, labels: IntArray, preprocessing: Preprocessing
) -> str | None:
    """The other preprocessing that makes the reference right far more often, in words; None if there is none.

    All are tried on the first `IMAGES` images; the best one, if it is better at all, is tested on all images.
    """
    images = preprocessing.normalize(frames)
    few = slice(0, IMAGES)
    mistakes = _fitting(images)

    def is_right(prepared: FloatArray, part: slice) -> Right:
        answered: Right = np.asarray(reference(prepared)).argmax(1) == labels[part]
        return answered

    right = is_right(images[few], few)
    tried = [is_right(mistake.apply(images[few], frames[few], preprocessing), few) for mistake in _shown(mistakes)]
    best = most_improved(right, tried, labels[few])
    if best is None:
        return None
    mistake, other = mistakes[best], tried[best]
    if len(frames) > IMAGES:
        rest = slice(IMAGES, None)
        right = np.concatenate([right, is_right(images[rest], rest)])
        prepared = mistake.apply(images[rest], frames[rest], preprocessing)
        other = np.concatenate([other, is_right(prepared, rest)])
    if not is_recipe(right, other, labels, len(mistakes)):
        return None
    return (
        f"preprocessing of the bundle: the FP32 reference itself is right on {right.mean():.0%} of {len(frames)} "
        f"images as the bundle prepares them, and on {other.mean():.0%} where {mistake.words}; "
        "export again with the model's own recipe"
    )


def most_improved(right: Right, tried: Sequence[Right], labels: IntArray) -> int | None:
    """Which of `tried` is right most often, with equal weight for each class; None if none is better than `right`."""
    if len(np.unique(labels)) < 2:
        return None  # with a single class, a broken recipe may always be right
    gains = [improvement(right, other, labels) for other in tried]
    best = max(range(len(gains)), key=lambda index: gains[index].after, default=None)
    return None if best is None or gains[best].after <= gains[best].before else best


def is_recipe(right: Right, other: Right, labels: IntArray, tried: int) -> bool:
    """Whether `other`, the best of `tried` recipes, beats `right` significantly and by a wide margin."""
    gain = improvement(right, other, labels)
    return tried * gain.p <= LEVEL and _far_better(gain.before, gain.after, labels)


def _far_better(before: float, after: float, labels: IntArray) -> bool:
    """Whether a balanced accuracy rose beyond chance by the factor that makes a recipe the cause."""
    chance = 1 / len(np.unique(labels))
    return after - chance >= _BETTER * (before - chance)


def _shown(mistakes: list[Mistake]) -> Iterator[Mistake]:
    return track(mistakes, "trying other preprocessing", len(mistakes), "ways")


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
