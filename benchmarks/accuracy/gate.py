"""The accuracy gate: PASS, FAIL or INCONCLUSIVE from paired outcomes and a budget.

PASS means that even the largest drop consistent with the data is inside the budget, FAIL that even the smallest is
outside. Each claim is wrong with a probability of at most `1 - confidence`, or the share of it that `Spending` allows.
No engine passes on images for which the reference is not clearly better than a constant answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.comparison import Outcomes, PairedOutcomes
from resnetrt.benchmarks.accuracy.groups import group_weights, net_winners
from resnetrt.benchmarks.stats.noninferiority import (
    drop_bounds,
    drop_fails,
    drop_passes,
    ratio_bounds,
    ratio_fails,
    ratio_passes,
)
from resnetrt.errors import BackendMissing, UsageError

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
    def drop_pp(self) -> float:
        """Reference top-1 minus candidate top-1 in percentage points."""
        return 100 * (self.lost - self.gained) / self.n


@dataclass(frozen=True)
class Verdict:
    """The decision on one engine. `bound_low`, `bound_high` are of the drop in pp, or of the ratio of accuracies.

    Each bound alone holds with the confidence of its side. With `more_images` further images the verdict is decided
    with a probability of 90 %; with `more_images_if_equal` an engine as good as its reference passes. Both are None for
    a decided verdict, or if no number suffices. `mcnemar_p` is exact and two-sided.
    """

    verdict: str
    bound_low: float
    bound_high: float
    mcnemar_p: float
    more_images: int | None
    more_images_if_equal: int | None

    def to_json(self) -> dict[str, Any]:
        """The gate's part of a row of `evaluate`."""
        return {
            "verdict": self.verdict,
            "verdict_why": STATISTICS,
            "gate_bounds": [self.bound_low, self.bound_high],
            "mcnemar_p": self.mcnemar_p,
            "more_images": self.more_images,
            "more_images_if_equal": self.more_images_if_equal,
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
    winners = pairs.winners or (int(pairs.lost), int(pairs.gained))
    return Verdict(verdict, low, high, mcnemar_p(*winners), more, more_if_equal)


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
        found = decide(both, lost, gained, pairs.n + more, budget, spending)
        return float(np.isin(found, wanted).mean()) >= _DECIDED

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
    try:
        import scipy.stats
    except ImportError as error:
        raise BackendMissing(
            "this needs the package scipy, which is not installed; run: pip install 'resnetrt[report]'"
        ) from error
    return scipy.stats


def gate_rows(
    comparison: PairedOutcomes,
    budget: Budget | None,
    class_names: Sequence[str] = (),
    spendings: Mapping[str, tuple[Spending, Spending]] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `comparison` with calibration errors and, under a budget, the verdict of each engine.

    `spendings` are each engine's spending for this look and for the next, by default all of `1 - confidence`. Every
    image counts once: `n` counts the distinct images, `copies` those left out because they are pixel-identical to
    another image, with the same label or a different one.
    """
    everything, comparison = len(comparison.labels), comparison.distinct()
    labels, groups = comparison.labels, comparison.groups
    reference_ece = calibration_error(comparison.reference, labels)
    rows = []
    for row, (name, outcomes) in zip(comparison.rows(), comparison.candidates.items(), strict=True):
        ece = calibration_error(outcomes, labels)
        extra = {
            "copies": everything - len(labels),
            "agreement_percent": 100 - row["flips_percent"],
            "fp32_ece_percent": 100 * reference_ece,
            "ece_percent": 100 * ece,
            "ece_change_pp": 100 * (ece - reference_ece),
        }
        if budget is not None:
            reference_right = comparison.reference.predicted == labels
            pairs = Pairs.count(reference_right, outcomes.predicted == labels, groups)
            extra |= {"lost": pairs.lost, "gained": pairs.gained}
            extra |= judge_pairs(pairs, budget, *(spendings or {}).get(name, (WHOLE, WHOLE))).to_json()
            question(extra, reference_right, labels, budget, class_names, groups)
        rows.append(row | extra)
    return rows


def question(
    row: dict[str, Any],
    reference_right: Right,
    labels: Labels,
    budget: Budget,
    class_names: Sequence[str] = (),
    groups: Labels | None = None,
) -> None:
    """Add `doubt` to a judged row: why its images tell too little, or None.

    With a doubt no engine passes; images of a single class decide nothing at all.
    """
    row["doubt"] = doubt_of(reference_right, labels, budget.confidence, class_names, groups)
    if row["doubt"] and (row["verdict"] == PASS or (labels == labels[0]).all()):
        row |= {"verdict": INCONCLUSIVE, "verdict_why": DATA, "more_images": None, "more_images_if_equal": None}


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


def calibration_error(outcomes: Outcomes, labels: npt.NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error: the mean over images of |confidence - accuracy| of their bin; bins have equal width.

    Guo et al. (2017), arXiv:1706.04599, equation 3.
    """
    index = np.minimum((outcomes.confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, weights=outcomes.confidence - (outcomes.predicted == labels), minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def overrule(row: dict[str, Any], why: str) -> None:
    """Let a row FAIL for a reason other than its statistics, unless it already fails by them."""
    if row["verdict"] != FAIL:
        row["verdict"], row["verdict_why"] = FAIL, why


def overall(rows: list[dict[str, Any]]) -> str | None:
    """The worst verdict of the rows: FAIL before INCONCLUSIVE before PASS; None without verdicts."""
    found = [row["verdict"] for row in rows if row["verdict"] is not None]
    return max(found, key=(PASS, INCONCLUSIVE, FAIL).index) if found else None
