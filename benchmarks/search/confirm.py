"""The held-out half of a search: which trials to confirm on it, at which confidence, and the drop that a PASS claims.

The smallest number of blocks that passes on one half of the images is a borderline case: on the other half it passes
about every second time. So the choice weighs blocks against the probability of a confirmation, and there may be a
second attempt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypedDict

import numpy as np

from resnetrt.benchmarks.accuracy.gate import PASS, Budget, Pairs, decide, scipy_stats
from resnetrt.benchmarks.accuracy.gate_rows import GateRow
from resnetrt.benchmarks.search.strategy import Trial
from resnetrt.benchmarks.stats.noninferiority import drop_bounds, falling_root
from resnetrt.calibration.images.data import IntArray
from resnetrt.fields import JsonObject

SURE = 0.9  # a probability of confirmation that needs no further block
ATTEMPTS = 2
_DRAWS = 1000  # estimates a probability of 0.9 to within 0.01
_PRIOR = 0.5  # prior weight of each of the four outcomes of an image (Jeffreys)


@dataclass(frozen=True)
class TrialToConfirm:
    """A trial to confirm, and the confidence for it."""

    trial: Trial
    confidence: float


class ClaimRow(TypedDict):
    """What is claimed of an attempt, and how surely."""

    confidence: float
    unselected_drop_pp: float


@dataclass(frozen=True)
class Confirmation:
    """The gate's row of an attempt on held-out images.

    `unselected_drop_pp` is its drop, corrected by `drop_of_passed` if it passed.
    """

    attempt: TrialToConfirm
    row: GateRow
    unselected_drop_pp: float

    def claim(self) -> ClaimRow:
        """What is claimed of it, and how surely."""
        return {"confidence": self.attempt.confidence, "unselected_drop_pp": self.unselected_drop_pp}

    def to_json(self) -> JsonObject:
        """The object under `held_out` of `search --json`."""
        return {**self.row.to_json(), **self.claim()}


def halves(groups: IntArray) -> tuple[IntArray, IntArray]:
    """Positions to search on and to confirm on, each in order; the count of each class differs by at most one.

    `groups` `(n,)` are the classes. The halves have the same size; an odd image is left out.
    """
    by_class = np.argsort(groups, kind="stable")
    even = 2 * (len(groups) // 2)
    return np.sort(by_class[0:even:2]), np.sort(by_class[1:even:2])


def corrected(budget: Budget, attempts: int) -> Budget:
    """The budget for each of several attempts: all together are wrong no more often than a single one (Bonferroni)."""
    return replace(budget, confidence=1 - (1 - budget.confidence) / attempts)


def chance_to_pass(pairs: Pairs, budget: Budget, images: int) -> float:
    """The probability that the gate passes on `images` other images, given the `pairs` of the images searched.

    From the predictive distribution of counts: the shares of both right, lost, gained and neither are drawn from their
    Dirichlet posterior, then images are drawn with these shares (Geisser 1993, Predictive Inference). The 1,000 draws
    use the same random numbers every time, so that the estimate is monotonic.
    """
    rng = np.random.default_rng(0)
    neither = pairs.n - pairs.both - pairs.lost - pairs.gained
    seen = np.array([pairs.both, pairs.lost, pairs.gained, neither])
    counts = rng.multinomial(images, rng.dirichlet(seen + _PRIOR, _DRAWS))
    return float((decide(counts[:, 0], counts[:, 1], counts[:, 2], images, budget) == PASS).mean())


def plan(trials: Sequence[Trial], blocks: int, budget: Budget, images: int, attempts: int) -> list[TrialToConfirm]:
    """The passing trials to confirm, in order: one at the budget's confidence, or two at a corrected one.

    The plan has the smallest expected number of blocks kept, where "nothing confirmed" costs `blocks` + 1. Two attempts
    use the same images, so the second is assumed to have no luck of its own. The plan is empty if no trial passed.
    """
    fewest: dict[int, Trial] = {}
    for trial in trials:
        if trial.passed:
            fewest.setdefault(len(trial.mix.kept), trial)
    sizes = sorted(fewest)
    plans: list[tuple[float, list[TrialToConfirm]]] = []
    for tries in range(1, attempts + 1):
        each = corrected(budget, tries)
        chances = {size: chance_to_pass(fewest[size].pairs, each, images) for size in sizes}
        for chosen in combinations(sizes, tries):
            cost, reached = 0.0, 0.0
            for size in chosen:
                cost += size * max(0.0, chances[size] - reached)
                reached = max(reached, chances[size])
            cost += (blocks + 1) * (1 - reached)
            plans.append((cost, [TrialToConfirm(fewest[size], each.confidence) for size in chosen]))
    return min(plans, key=lambda item: item[0], default=(0.0, []))[1]


def drop_of_passed(pairs: Pairs, budget: Budget) -> float:
    """The drop in pp of a candidate that passed, corrected for the selection by that pass.

    Only candidates that pass are reported, so the observed drop is too small on average. Given the number of images
    that differ, the number lost is binomial, truncated at the largest count that still passes. The estimate is the
    median-unbiased one of this truncated distribution (mid-p). It has a long tail, so it is capped at the gate's own
    bound: the hybrid estimator of Andrews, Kitagawa and McCloskey (2024, "Inference on Winners", Quarterly Journal of
    Economics 139(1)).
    """
    lost, gained, n = int(pairs.lost), int(pairs.gained), pairs.n  # whole images: a search has no groups
    differ, right = lost + gained, int(pairs.both) + lost
    possible = np.arange(min(differ, right) + 1)
    passing = possible[decide(right - possible, possible, differ - possible, n, budget) == PASS]
    if not differ or lost not in passing:
        return pairs.drop_pp
    most, binomial = int(passing.max()), scipy_stats().binom

    def beyond(share: float) -> float:
        low, at, all_of_it = binomial.cdf([lost - 1, lost, most], differ, share)
        return float((low + at) / 2 / all_of_it - 0.5) if all_of_it > 0 else -0.5

    share = falling_root(beyond, 0.0, 1.0)
    bound = drop_bounds(lost, gained, n, budget.confidence, budget.confidence)[1]
    return float(100 * min(differ * (2 * share - 1) / n, bound))
