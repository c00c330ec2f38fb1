"""Is an engine's accuracy at most so much below the reference's? One-sided score tests on paired outcomes.

`lost` images only the reference gets right, `gained` only the candidate, `both` both. All tests are corrected for
continuity by half an image: enumerated over `n` from 50 to 50,000, budgets from 0.2 to 10 pp and flip rates from the
budget to 50 %, Tango's uncorrected score passes up to 6.0 % of engines exactly at the budget where 5 % are promised,
the corrected one at most 4.97 %.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Score = Callable[[float], float]
CORRECTION = 0.5


def drop_score(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, drop: npt.ArrayLike, correction: float = 0.0
) -> Floats:
    """Score statistic for the hypothesis that the true drop is `drop` (a fraction); falls as `drop` grows.

    Tango (1998), Statistics in Medicine 17, 891-908, equation 3: `(lost - gained - n drop)` over its standard deviation
    at the constrained maximum of the likelihood. `correction` is added to the numerator. Arrays broadcast.
    """
    lost, gained, n, drop = (np.asarray(value, np.float64) for value in (lost, gained, n, drop))
    b = -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    gain_chance = (np.sqrt(np.maximum(0, b * b - 8 * n * c)) - b) / (4 * n)
    return _over(lost - gained - n * drop + correction, n * (2 * gain_chance + drop * (1 - drop)))


def ratio_score(
    both: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, ratio: npt.ArrayLike, correction: float = 0.0
) -> Floats:
    """Score statistic for the hypothesis that candidate top-1 / reference top-1 is `ratio`; falls as `ratio` grows.

    `right - ratio reference_right` over its standard deviation at the constrained maximum of the likelihood, as Nam and
    Blackwelder (2002), Statistics in Medicine 21, 689-699. Given that the total share of images that either gets right
    is free, `gain = g`, `both = ratio - (1 + ratio) g`, `loss = 1 - ratio + ratio g` maximise it where a quadratic in
    `g` is zero. `correction` is added to the numerator. Arrays broadcast.
    """
    both, lost, gained, r = (np.asarray(value, np.float64) for value in (both, lost, gained, ratio))
    any_right = both + lost + gained
    a = any_right * r * (1 + r)
    b = both * (1 - r * r) - gained * (2 * r * r - 1) - lost * r * r
    c = -gained * (1 - r) * r
    with np.errstate(divide="ignore", invalid="ignore"):
        g = np.where(a > 0, (np.sqrt(np.maximum(0, b * b - 4 * a * c)) - b) / (2 * a), 0.0)
    g = np.clip(g, np.maximum(0.0, (r - 1) / r), r / (1 + r))
    variance = any_right * ((1 - r) ** 2 * (r - (1 + r) * g) + g + r * r * (1 - r + r * g))
    return _over(both * (1 - r) + gained - r * lost + correction, variance)


def drop_bounds(lost: int, gained: int, n: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the drop, as fractions; each alone holds with `confidence`."""
    z = critical(confidence)
    estimate = (lost - gained) / n
    low = falling_root(lambda drop: float(drop_score(lost, gained, n, drop, -CORRECTION)) - z, -1.0, estimate)
    high = falling_root(lambda drop: float(drop_score(lost, gained, n, drop, CORRECTION)) + z, estimate, 1.0)
    return low, high


def ratio_bounds(both: int, lost: int, gained: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of candidate top-1 / reference top-1; each alone holds with `confidence`."""
    z = critical(confidence)
    estimate = (both + gained) / max(1, both + lost)
    low = falling_root(lambda r: float(ratio_score(both, lost, gained, r, -CORRECTION)) - z, 1e-9, estimate)
    high = falling_root(lambda r: float(ratio_score(both, lost, gained, r, CORRECTION)) + z, estimate, estimate * 4 + 4)
    return low, high


def critical(confidence: float) -> float:
    """The standard normal quantile that a score must pass."""
    return NormalDist().inv_cdf(confidence)


def falling_root(falling: Score, low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`; the nearer end if it does not."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _over(difference: Floats, variance: Floats) -> Floats:
    """`difference / sqrt(variance)`; infinite, with the sign of the difference, where the variance is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = difference / np.sqrt(np.maximum(variance, 0))
    return np.where(variance > 0, score, np.where(difference == 0, 0.0, np.copysign(np.inf, difference)))
