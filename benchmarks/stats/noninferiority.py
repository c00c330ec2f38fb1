"""Is an engine's accuracy at most a given amount below the reference's? One-sided score tests on paired outcomes.

`lost` counts the images that only the reference gets right, `gained` those that only the candidate gets right, `both`
those that both get right; counts are fractional if groups count as one image (`accuracy.groups`). All tests have a
continuity correction of half an image; those for FAIL are also corrected for skewness: losses are rare, so their upper
tail is longer than the normal one. The table shows the largest share of wrong verdicts for engines exactly at the
budget, enumerated over `n` from 50 to 50,000, budgets from 0.2 to 10 pp and flip rates from the budget to 50 % (Tango's
own score lets 6.0 % pass at 5 %):

    promised                     5 %      1 %      0.1 %     0.01 %
    PASS                         4.97 %   0.993 %  0.0992 %  0.0099 %
    FAIL without the skewness    6.13 %   1.42 %   0.198 %   0.0365 %
    FAIL                         4.98 %   0.994 %  0.0996 %  0.0099 %
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

    Tango (1998), Statistics in Medicine 17, 891-908, equation 3: `(lost - gained - n drop)` divided by its standard
    deviation at the constrained maximum of the likelihood. `correction` is added to the numerator. Arrays broadcast.
    """
    lost, gained, n, drop = (np.asarray(value, np.float64) for value in (lost, gained, n, drop))
    return _over(lost - gained - n * drop + correction, n * (_flip_rate(lost, gained, n, drop) - drop * drop))


def drop_passes(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, drop: npt.ArrayLike, confidence: float
) -> Floats:
    """At most 0 if the true drop is below `drop` with `confidence`; falls as `drop` grows."""
    return drop_score(lost, gained, n, drop, CORRECTION) + critical(confidence)


def drop_fails(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, drop: npt.ArrayLike, confidence: float
) -> Floats:
    """At least 0 if the true drop is above `drop` with `confidence`; falls as `drop` grows.

    The quantile is that of a distribution with the skewness of `lost - gained` at the constrained maximum of the
    likelihood, by the first term of the Cornish-Fisher expansion (Hall 1992, The Bootstrap and Edgeworth Expansion,
    section 2.5).
    """
    lost, gained, n, drop = (np.asarray(value, np.float64) for value in (lost, gained, n, drop))
    flips = _flip_rate(lost, gained, n, drop)
    third, variance = n * (drop - 3 * drop * flips + 2 * drop**3), n * (flips - drop * drop)
    z = critical(confidence)
    return drop_score(lost, gained, n, drop, -CORRECTION) - z - _skew_term(third, variance, z)


def _flip_rate(lost: Floats, gained: Floats, n: Floats, drop: Floats) -> Floats:
    """The share of images that flip at the constrained maximum of the likelihood."""
    b = -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    gain_chance = (np.sqrt(np.maximum(0, b * b - 8 * n * c)) - b) / (4 * n)
    return np.asarray(2 * gain_chance + drop, np.float64)


def ratio_score(
    both: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, ratio: npt.ArrayLike, correction: float = 0.0
) -> Floats:
    """Score statistic for the hypothesis that candidate top-1 / reference top-1 is `ratio`; falls as `ratio` grows.

    `right - ratio reference_right` divided by its standard deviation at the constrained maximum of the likelihood, as
    in Nam and Blackwelder (2002), Statistics in Medicine 21, 689-699. The total share of images that at least one gets
    right is free; `gain = g`, `both = ratio - (1 + ratio) g` and `loss = 1 - ratio + ratio g` maximise the likelihood
    where a quadratic in `g` is zero. `correction` is added to the numerator. Arrays broadcast.
    """
    both, lost, gained, r = (np.asarray(value, np.float64) for value in (both, lost, gained, ratio))
    variance, _ = _ratio_moments(both, lost, gained, r)
    return _over(both * (1 - r) + gained - r * lost + correction, variance)


def ratio_passes(
    both: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, ratio: npt.ArrayLike, confidence: float
) -> Floats:
    """At least 0 if candidate top-1 / reference top-1 is above `ratio` with `confidence`; falls as `ratio` grows."""
    return ratio_score(both, lost, gained, ratio, -CORRECTION) - critical(confidence)


def ratio_fails(
    both: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, ratio: npt.ArrayLike, confidence: float
) -> Floats:
    """At most 0 if that ratio is below `ratio` with `confidence`, corrected for skewness as in `drop_fails`."""
    both, lost, gained, r = (np.asarray(value, np.float64) for value in (both, lost, gained, ratio))
    variance, third = _ratio_moments(both, lost, gained, r)
    z = critical(confidence)
    return ratio_score(both, lost, gained, r, CORRECTION) + z + _skew_term(-third, variance, z)


def _ratio_moments(both: Floats, lost: Floats, gained: Floats, r: Floats) -> tuple[Floats, Floats]:
    """Second and third moment of `right - ratio reference_right` at the constrained maximum of the likelihood."""
    any_right = both + lost + gained
    a = any_right * r * (1 + r)
    b = both * (1 - r * r) - gained * (2 * r * r - 1) - lost * r * r
    c = -gained * (1 - r) * r
    with np.errstate(divide="ignore", invalid="ignore"):
        g = np.where(a > 0, (np.sqrt(np.maximum(0, b * b - 4 * a * c)) - b) / (2 * a), 0.0)
    g = np.clip(g, np.maximum(0.0, (r - 1) / r), r / (1 + r))
    shares = r - (1 + r) * g, g, 1 - r + r * g
    values = 1 - r, np.ones_like(r), -r
    variance, third = (any_right * sum(np.multiply(x, value**k) for x, value in zip(shares, values, strict=True))
                       for k in (2, 3))  # fmt: skip
    return variance, third


def _skew_term(third: Floats, variance: Floats, z: float) -> Floats:
    """The correction of the quantile `z` for a skewness towards this tail."""
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(variance > 0, third / np.maximum(variance, 1e-300) ** 1.5, 0.0)
    return np.asarray(np.maximum(skewness, 0) * (z * z - 1) / 6, np.float64)


def drop_bounds(lost: float, gained: float, n: int, below: float, above: float) -> tuple[float, float]:
    """The drop's lower bound, with confidence `below`, and its upper bound, with confidence `above`; as fractions."""
    estimate = (lost - gained) / n
    low = falling_root(lambda drop: float(drop_fails(lost, gained, n, drop, below)), -1.0, estimate)
    high = falling_root(lambda drop: float(drop_passes(lost, gained, n, drop, above)), estimate, 1.0)
    return low, high


def ratio_bounds(both: float, lost: float, gained: float, below: float, above: float) -> tuple[float, float]:
    """Bounds of candidate top-1 / reference top-1: the lower with confidence `below`, the upper with `above`."""
    estimate = (both + gained) / max(1, both + lost)
    low = falling_root(lambda r: float(ratio_passes(both, lost, gained, r, below)), 1e-9, estimate)
    high = falling_root(lambda r: float(ratio_fails(both, lost, gained, r, above)), estimate, estimate * 4 + 4)
    return low, high


def critical(confidence: float) -> float:
    """The standard normal quantile that a score must pass."""
    return NormalDist().inv_cdf(confidence)


def falling_root(falling: Score, low: float, high: float) -> float:
    """The zero of a falling function between `low` and `high`; the nearer end if there is none."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _over(difference: Floats, variance: Floats) -> Floats:
    """`difference / sqrt(variance)`; infinite, with the sign of the difference, if the variance is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = difference / np.sqrt(np.maximum(variance, 0))
    return np.where(variance > 0, score, np.where(difference == 0, 0.0, np.copysign(np.inf, difference)))


def drop_interval(lost: float, gained: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the drop `(lost - gained) / n`, as a fraction.

    `lost` counts the images that only the reference gets right, `gained` those that only the candidate gets right. The
    interval holds the drops that the score test does not reject (Tango 1998, Statistics in Medicine 17, 891-908).
    Unlike Wald's interval it is valid with few or no discordant images. Raises `ValueError` for counts that make no
    sense.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n * (1 + 1e-9):
        raise ValueError(f"expected 0 <= lost + gained <= n, found {lost}, {gained}, {n}")
    z = critical(0.5 + confidence / 2)
    estimate = (lost - gained) / n
    low = falling_root(lambda drop: float(drop_score(lost, gained, n, drop)) - z, -1.0, estimate)
    high = falling_root(lambda drop: float(drop_score(lost, gained, n, drop)) + z, estimate, 1.0)
    return low, high
