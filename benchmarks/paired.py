"""Interval of a difference between two proportions seen on the same images."""

import math
from collections.abc import Callable
from statistics import NormalDist


def drop_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the drop `(lost - gained) / n`, as a fraction.

    `lost` images only the reference gets right, `gained` only the candidate. Tango (1998), Statistics in Medicine 17,
    891-908: the drops that the score test does not reject; honest at few or no discordant images, unlike Wald's.
    Raises `ValueError` for counts that make no sense.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError(f"expected 0 <= lost + gained <= n, found {lost}, {gained}, {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    estimate = (lost - gained) / n
    low = _root(lambda drop: _score(lost, gained, n, drop) - z, -1.0, estimate)
    high = _root(lambda drop: _score(lost, gained, n, drop) + z, estimate, 1.0)
    return low, high


def _score(lost: int, gained: int, n: int, drop: float) -> float:
    """Tango's test statistic for the hypothesis that the true drop is `drop`; falls as `drop` grows."""
    b = -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    # the larger root of 2n q^2 + b q + c: the likeliest chance of a gain if the drop is `drop`
    gain_chance = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * gain_chance + drop * (1 - drop))
    difference = lost - gained - n * drop
    if variance <= 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / math.sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`; the nearer end if it does not."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
