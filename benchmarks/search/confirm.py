"""The held-out half of a search: which trials to confirm on it, at which confidence, and what drop a PASS then claims.

The least number of blocks that passes on one half of the images is one at the edge: on the other half it passes about
every second time. So the choice weighs blocks against the chance of a confirmation, and there may be a second attempt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy.gate import PASS, Budget, decide, scipy_stats
from resnetrt.benchmarks.search.strategy import Trial
from resnetrt.benchmarks.stats.noninferiority import drop_bounds, falling_root
from resnetrt.calibration.images.data import IntArray

SURE = 0.9  # a chance of confirmation beyond which one more block is not looked for
ATTEMPTS = 2
_DRAWS = 1000  # a chance of 0.9 is known to 0.01
_PRIOR = 0.5  # of each of the four outcomes of an image (Jeffreys)


@dataclass(frozen=True)
class TrialToConfirm:
    """A trial to confirm, at this confidence."""

    trial: Trial
    confidence: float


def halves(groups: IntArray) -> tuple[IntArray, IntArray]:
    """Positions to search on and to confirm on, each in order: of every class as many, one image more or less.

    `groups` `(n,)` are the classes. The halves are as large as each other; an odd image is left out.
    """
    by_class = np.argsort(groups, kind="stable")
    even = 2 * (len(groups) // 2)
    return np.sort(by_class[0:even:2]), np.sort(by_class[1:even:2])


def corrected(budget: Budget, attempts: int) -> Budget:
    """The budget of each of several attempts, so that all of them together are wrong as seldom as one (Bonferroni)."""
    return replace(budget, confidence=1 - (1 - budget.confidence) / attempts)


def chance_to_pass(row: Mapping[str, Any], budget: Budget, images: int) -> float:
    """How likely the gate passes on `images` others, after `row` on the images searched.

    The predictive distribution of counts: shares of both right, lost, gained and neither from the Dirichlet
    distribution that the row leaves of a flat prior, then images drawn by these shares (Geisser 1993, Predictive
    Inference). By 1,000 draws that are the same every time, so that it grows with what it should grow with.
    """
    rng = np.random.default_rng(0)
    both = round(row["top1"] * row["n"] / 100) - row["gained"]
    seen = np.array([both, row["lost"], row["gained"], row["n"] - both - row["lost"] - row["gained"]])
    counts = rng.multinomial(images, rng.dirichlet(seen + _PRIOR, _DRAWS))
    return float((decide(counts[:, 0], counts[:, 1], counts[:, 2], images, budget) == PASS).mean())


def plan(trials: Sequence[Trial], blocks: int, budget: Budget, images: int, attempts: int) -> list[TrialToConfirm]:
    """Which of the passing trials to confirm, the first first: one at the budget's confidence, or two corrected ones.

    The plan with the least expected number of blocks kept, where nothing confirmed costs all `blocks` and one more. Two
    attempts share their images, so the second is taken to have no luck of its own. Empty if no trial passed.
    """
    fewest: dict[int, Trial] = {}
    for trial in trials:
        if trial.passed:
            fewest.setdefault(len(trial.mix.kept), trial)
    sizes = sorted(fewest)
    plans: list[tuple[float, list[TrialToConfirm]]] = []
    for tries in range(1, attempts + 1):
        each = corrected(budget, tries)
        chances = {size: chance_to_pass(fewest[size].row, each, images) for size in sizes}
        for chosen in combinations(sizes, tries):
            cost, reached = 0.0, 0.0
            for size in chosen:
                cost += size * max(0.0, chances[size] - reached)
                reached = max(reached, chances[size])
            cost += (blocks + 1) * (1 - reached)
            plans.append((cost, [TrialToConfirm(fewest[size], each.confidence) for size in chosen]))
    return min(plans, key=lambda item: item[0], default=(0.0, []))[1]


def drop_of_passed(row: Mapping[str, Any], budget: Budget) -> float:
    """The drop in pp of a candidate that passed, with the luck taken out that made it pass.

    Only what passes is reported, so the drop seen is too small on average. Given how many images differ, those lost are
    binomial, cut off at the most that still pass; the estimate is the median-unbiased one of that cut-off distribution
    (mid-p), which has a long tail, hence at most the gate's own bound: the hybrid estimator of Andrews, Kitagawa and
    McCloskey (2024, "Inference on Winners", Quarterly Journal of Economics 139(1)).
    """
    lost, gained, n = row["lost"], row["gained"], row["n"]
    differ, right = lost + gained, round(row["fp32_top1"] * row["n"] / 100)
    possible = np.arange(min(differ, right) + 1)
    passing = possible[decide(right - possible, possible, differ - possible, n, budget) == PASS]
    if not differ or lost not in passing:
        return float(row["drop_pp"])
    most, binomial = int(passing.max()), scipy_stats().binom

    def beyond(share: float) -> float:
        low, at, all_of_it = binomial.cdf([lost - 1, lost, most], differ, share)
        return float((low + at) / 2 / all_of_it - 0.5) if all_of_it > 0 else -0.5

    share = falling_root(beyond, 0.0, 1.0)
    bound = drop_bounds(lost, gained, n, budget.confidence, budget.confidence)[1]
    return float(100 * min(differ * (2 * share - 1) / n, bound))
