"""The accuracy gate: PASS, FAIL or INCONCLUSIVE from paired outcomes and a budget.

PASS means that even the largest drop consistent with the data is inside the budget, FAIL that even the smallest is
outside. Each claim is wrong with a probability of at most `1 - confidence`, or the share of it that `Spending` allows.
No engine passes on images for which the reference is not clearly better than a constant answer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.groups import group_weights, net_winners
from resnetrt.benchmarks.stats.noninferiority import (
    drop_bounds,
    drop_fails,
    drop_passes,
    ratio_bounds,
    ratio_fails,
    ratio_passes,
)
from resnetrt.errors import UsageError
from resnetrt.parts import import_part

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
# what decided the verdict, see `explain`
STATISTICS, SELFTEST, REFERENCE, DATA = "statistics", "self-test", "reference", "data"
EXIT_CODES = {PASS: 0, FAIL: 1, INCONCLUSIVE: 3}
MOST_IMAGES = 10**9
_DECIDED = 0.9  # the probability that `more_images` decide
_DRAWS = 1000  # draws that estimate this probability; one standard error is 0.9 %
Right = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Budget:
    """The accuracy that may be lost: `max_drop_pp` percentage points, or down to `min_relative` of the reference's.

    Exactly one of the two must be given. Raises `UsageError` otherwise, or for values out of range.
    """

    max_drop_pp: float | None = None
    min_relative: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if (self.max_drop_pp is None) == (self.min_relative is None):
            raise UsageError("gate: expected one budget, --max-drop or --min-relative")
        if self.max_drop_pp is not None and not 0 < self.max_drop_pp < 100:
            raise UsageError(f"--max-drop: expected percentage points above 0 and below 100, found {self.max_drop_pp}")
        if self.min_relative is not None and not 0 < self.min_relative < 1:
            raise UsageError(f"--min-relative: expected a share between 0 and 1, found {self.min_relative}")
        if not 0.5 < self.confidence < 1:
            raise UsageError(f"--confidence: expected a share between 0.5 and 1, found {self.confidence}")

    def __str__(self) -> str:
        if self.max_drop_pp is not None:
            return f"top-1 at most {self.max_drop_pp:g} pp below the reference, confidence {self.confidence:.0%}"
        return f"top-1 at least {self.min_relative:g} of the reference's, confidence {self.confidence:.0%}"

    def to_json(self) -> dict[str, float | None]:
        """The budget under its field names."""
        return {"max_drop_pp": self.max_drop_pp, "min_relative": self.min_relative, "confidence": self.confidence}


@dataclass(frozen=True)
class Spending:
    """The share of the budget's `1 - confidence` that one verdict may use, for a PASS and for a FAIL.

    Verdicts that must all be right share it: their error probabilities add up to at most `1 - confidence` (Bonferroni).
    """

    to_pass: float = 1.0
    to_fail: float = 1.0

    def confidences(self, budget: Budget) -> tuple[float, float]:
        """The confidence of a PASS and that of a FAIL."""
        return 1 - (1 - budget.confidence) * self.to_pass, 1 - (1 - budget.confidence) * self.to_fail


WHOLE = Spending()


@dataclass(frozen=True)
class Pairs:
    """Of `n` images, how many both get right, only the reference (`lost`), and only the candidate (`gained`).

    With groups, these are sums over groups of the shares of their images. `winners` are then the number of groups in
    which the reference is right on more images and the number in which the candidate is; without groups, `lost` and
    `gained`.
    """

    both: float
    lost: float
    gained: float
    n: int
    winners: tuple[int, int] | None = None

    @classmethod
    def count(cls, reference_right: Right, right: Right, groups: Labels | None = None) -> "Pairs":
        """The counts of two `(n,)` arrays over the same images."""
        cells = reference_right & right, reference_right & ~right, right & ~reference_right
        if groups is None:
            both, lost, gained = (int(cell.sum()) for cell in cells)
            return cls(both, lost, gained, len(right))
        weights = group_weights(groups, len(right))
        shared, lost_share, gained_share = (float(weights[cell].sum()) for cell in cells)
        winners = net_winners(reference_right, right, groups)
        return cls(shared, lost_share, gained_share, len(np.unique(groups)), winners)

    @property
    def by_winner(self) -> tuple[int, int]:
        """`winners`, or the counts that they are without groups."""
        return self.winners or (int(self.lost), int(self.gained))

    @property
    def drop_pp(self) -> float:
        """Reference top-1 minus candidate top-1 in percentage points."""
        return 100 * (self.lost - self.gained) / self.n


@dataclass(frozen=True)
class Verdict:
    """The decision on one engine. `bound_low`, `bound_high` are of the drop in pp, or of the ratio of accuracies.

    Each bound alone holds with the confidence of its side. With `more_images` further images the verdict is decided
    with a probability of 90 %; with `more_images_if_equal` an engine as good as its reference passes. Both are None for
    a decided verdict, or if no number suffices. `mcnemar_p` is exact and two-sided, None for runs on other images.
    `why` is what decided; `doubt` says why the images tell too little, None if they tell enough.
    """

    verdict: str
    bound_low: float
    bound_high: float
    mcnemar_p: float | None = None
    more_images: int | None = None
    more_images_if_equal: int | None = None
    why: str = STATISTICS
    doubt: str | None = None

    def overruled(self, why: str) -> "Verdict":
        """FAIL for a reason other than the statistics, unless it already fails by them."""
        return self if self.verdict == FAIL else replace(self, verdict=FAIL, why=why)

    def to_json(self) -> dict[str, Any]:
        """The gate's part of a row of `evaluate`."""
        return {
            "verdict": self.verdict,
            "verdict_why": self.why,
            "gate_bounds": [self.bound_low, self.bound_high],
            "mcnemar_p": self.mcnemar_p,
            "more_images": self.more_images,
            "more_images_if_equal": self.more_images_if_equal,
            "doubt": self.doubt,
        }


def judge_pairs(
    pairs: Pairs, budget: Budget, spending: Spending = WHOLE, next_spending: Spending | None = None
) -> Verdict:
    """The verdict on paired counts; `more_images` are for a look under `next_spending`, by default `spending`.

    Raises `BackendMissing` without scipy.
    """
    verdict = str(decide(pairs.both, pairs.lost, pairs.gained, pairs.n, budget, spending))
    passing, failing = spending.confidences(budget)
    if budget.max_drop_pp is not None:
        low, high = (100 * end for end in drop_bounds(pairs.lost, pairs.gained, pairs.n, failing, passing))
    else:
        low, high = ratio_bounds(pairs.both, pairs.lost, pairs.gained, passing, failing)
    more, more_if_equal = (
        images_to_decide(pairs, budget, next_spending or spending, equal) if verdict == INCONCLUSIVE else None
        for equal in (False, True)
    )
    return Verdict(verdict, low, high, mcnemar_p(*pairs.by_winner), more, more_if_equal)


def decide(
    both: npt.ArrayLike,
    lost: npt.ArrayLike,
    gained: npt.ArrayLike,
    n: npt.ArrayLike,
    budget: Budget,
    spending: Spending = WHOLE,
) -> npt.NDArray[np.str_]:
    """PASS, FAIL or INCONCLUSIVE for arrays of counts, which broadcast and need not be integers."""
    passing, failing = spending.confidences(budget)
    if budget.max_drop_pp is not None:
        limit = budget.max_drop_pp / 100
        passes = drop_passes(lost, gained, n, limit, passing) <= 0
        fails = drop_fails(lost, gained, n, limit, failing) >= 0
    else:
        ratio = budget.min_relative
        assert ratio is not None
        passes = ratio_passes(both, lost, gained, ratio, passing) >= 0
        fails = ratio_fails(both, lost, gained, ratio, failing) <= 0
    return np.where(passes, PASS, np.where(fails, FAIL, INCONCLUSIVE))


def images_to_decide(pairs: Pairs, budget: Budget, spending: Spending = WHOLE, equal: bool = False) -> int | None:
    """How many further images decide with a probability of 90 %, given the counts so far; None if no number does.

    This is predictive power (Spiegelhalter, Freedman and Blackburn 1986, Controlled Clinical Trials 7, 8-17): true
    shares are drawn from their posterior given the counts (Dirichlet, Jeffreys' prior), and further images from these
    shares. Treating the observed shares as true would decide half of the time if they are true, and less often if they
    are not. With `equal` the true drop is assumed to be zero, and the verdict must be PASS: that is conditional power
    (Lachin 2005, Statistics in Medicine 24, 2747-2764).
    """
    cells = np.array([pairs.both, pairs.lost, pairs.gained, pairs.n - pairs.both - pairs.lost - pairs.gained])
    shares = np.random.default_rng(0).dirichlet(np.maximum(cells, 0) + 0.5, _DRAWS)
    if equal:
        shares[:, 1:3] = shares[:, 1:3].mean(1, keepdims=True)
    wanted = [PASS] if equal else [PASS, FAIL]

    def decided(more: int) -> bool:
        both, lost, gained, _ = (cells + np.random.default_rng(1).multinomial(more, shares)).T
        verdicts = decide(both, lost, gained, pairs.n + more, budget, spending)
        return float(np.isin(verdicts, wanted).mean()) >= _DECIDED

    high = max(1, pairs.n // 16)
    while not decided(high):
        high *= 2
        if high > MOST_IMAGES:
            return None
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided p of McNemar's test: `lost` heads in `lost + gained` tosses of a fair coin (McNemar 1947)."""
    return min(1.0, 2 * _at_least(max(lost, gained), lost + gained, 0.5))


def gain_p(gained: int, lost: int, share: float = 0.5) -> float:
    """Exact one-sided p: `gained` or more of `gained + lost` images are gained, each with probability `share`."""
    return _at_least(gained, gained + lost, share)


def _at_least(count: int, n: int, share: float) -> float:
    """The probability of `count` or more of `n`, each with probability `share`: a sum over the binomial distribution.

    A gate runs on devices, which have no scipy. The relative error is below 1e-8 up to a million of them.
    """
    if count <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    orders, yes, no = math.lgamma(n + 1), math.log(share), math.log1p(-share)
    return min(1.0, math.fsum(
        math.exp(orders - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)
        for k in range(count, n + 1)
    ))  # fmt: skip


def scipy_stats() -> Any:
    """`scipy.stats`. Raises `BackendMissing` naming the extra that installs it."""
    return import_part("scipy.stats", "statistics")


def question(
    verdict: Verdict,
    reference_right: Right,
    labels: Labels,
    budget: Budget,
    class_names: Sequence[str] = (),
    groups: Labels | None = None,
) -> Verdict:
    """The verdict with its `doubt`: with one no engine passes; images of a single class decide nothing at all."""
    doubt = doubt_of(reference_right, labels, budget.confidence, class_names, groups)
    if doubt and (verdict.verdict == PASS or (labels == labels[0]).all()):
        verdict = replace(verdict, verdict=INCONCLUSIVE, why=DATA, more_images=None, more_images_if_equal=None)
    return replace(verdict, doubt=doubt)


def doubt_of(
    reference_right: Right,
    labels: Labels,
    confidence: float,
    class_names: Sequence[str] = (),
    groups: Labels | None = None,
) -> str | None:
    """Why these images can't tell a good engine from a bad one, in words; None if they can.

    The reference must be right more often than the constant answer of the largest class, by McNemar's exact one-sided
    test. A reference that is no better passes this test with a probability of at most `1 - confidence`.
    """
    weights = group_weights(groups, len(labels))
    n, most = len(labels), int(np.bincount(labels, weights).argmax())
    name = class_names[most] if most < len(class_names) else str(most)
    guess = labels == most
    if guess.all():
        return f"all {n} images are of one class, {name}: they tell no engine from one that always says so; add others"
    if gain_p(*net_winners(reference_right, guess, groups)) <= 1 - confidence:
        return None
    known, guessed = (100 * np.average(hits, weights=weights) for hits in (reference_right, guess))
    return (
        f"the FP32 reference is right on {known:.1f} % of {n} images, always saying {name} on {guessed:.1f} %: that is "
        "not clearly better, so it measures no engine; check labels and preprocessing, or add images"
    )


def overall(verdicts: Iterable[str | None]) -> str | None:
    """The worst verdict: FAIL before INCONCLUSIVE before PASS; None without verdicts."""
    given = [verdict for verdict in verdicts if verdict is not None]
    return max(given, key=(PASS, INCONCLUSIVE, FAIL).index) if given else None
