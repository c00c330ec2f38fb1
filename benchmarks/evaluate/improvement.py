"""Are other answers right more often on the same images? An exact paired test that one large class can't dominate."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.gate import Right, gain_p
from resnetrt.calibration.images.data import IntArray


@dataclass(frozen=True)
class Improvement:
    """How `after` compares with `before`: the images that only one gets right, and both balanced accuracies.

    `p` is the larger of two p values, so that one large class can't decide. The first is McNemar's exact one-sided p
    over all images. The second is the smaller of the sign test's p with equal weight for each class, and the exact p
    without the class that gains most.
    """

    gained: int
    lost: int
    before: float
    after: float
    p: float


def improvement(before: Right, after: Right, labels: IntArray) -> Improvement:
    """Compare which images two sets of answers get right; all arrays are `(n,)`, with n at least one."""
    weights = class_weights(labels)
    gains, losses = (
        np.bincount(labels[part], minlength=labels.max() + 1) for part in (after & ~before, before & ~after)
    )
    gained, lost, best = int(gains.sum()), int(losses.sum()), (gains - losses).argmax()
    without_best = gain_p(gained - int(gains[best]), lost - int(losses[best]))
    change = weights * (after.astype(np.int64) - before)
    balanced = NormalDist().cdf(-float(change.sum() / np.sqrt((change**2).sum()))) if gained or lost else 1.0
    p = max(gain_p(gained, lost), min(without_best, balanced))
    return Improvement(gained, lost, float(weights @ before), float(weights @ after), p)


def beats_chance(right: Right, labels: IntArray, confidence: float = 0.95) -> bool:
    """Whether the balanced accuracy over the classes that have images is clearly above that of any constant answer."""
    weights = class_weights(labels)
    counts = np.bincount(labels)
    recall = np.bincount(labels, weights=right) / np.maximum(counts, 1)
    spread = np.sqrt((recall * (1 - recall) / np.maximum(counts, 1)).sum()) / np.count_nonzero(counts)
    chance = 1 / np.count_nonzero(counts)
    return bool(float(weights @ right) > chance + NormalDist().inv_cdf(confidence) * spread)


def class_weights(labels: IntArray) -> npt.NDArray[np.float64]:
    """Weights `(n,)` of the images: they sum to one, and each class has the same total."""
    counts = np.bincount(labels)
    return 1 / (counts[labels] * np.count_nonzero(counts))
