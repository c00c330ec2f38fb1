"""Is one side slower than the other? The unit is the run: Student's t on the logarithms of whole runs' results.

Rounds of one run share its offset (memory layout, other activity of the machine), so they are no sample of what another
run would give: resampled by rounds, "95 %" intervals of two runs cover the truth in 97, 52, 29 and 20 % at offsets of
0, 1, 2 and 3 % (`studies.runs`). The variance between runs is a separate quantity, and is estimated from runs.

No number of rounds within one run shows this offset: an engine that is loaded again, or timed a minute later, differs
by a few percent. Sentences that compare cells of one run (which engine is fastest, where INT8 pays) allow each cell an
offset of `CELL_OFFSET`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean

from resnetrt.benchmarks.stats.noninferiority import falling_root

# the standard deviation of a cell's offset: the largest that `studies.runs` simulates
CELL_OFFSET = 0.03


@dataclass(frozen=True)
class Difference:
    """The logarithm of new over old: estimate, standard error and degrees of freedom."""

    log_ratio: float
    standard_error: float
    df: int

    def reach(self, tail: float) -> float:
        """The distance from the estimate to the bound that the truth exceeds with probability `tail`."""
        return student_t(tail, self.df) * self.standard_error

    def tail_above(self, log_limit: float) -> float:
        """The p value of "new is at most `log_limit` above old": small if new is clearly slower."""
        gap = self.log_ratio - log_limit
        if self.standard_error == 0:  # a clock that shows no spread
            return 0.0 if gap > 0 else 1.0
        return student_tail(gap / self.standard_error, self.df)


def differ(old: Sequence[float], new: Sequence[float], least_variance: float = 0.0) -> Difference | None:
    """New against old; each value is the logarithm of one run's result. None if neither side has two runs.

    Student's two-sample t with one variance for both sides (Student 1908, Biometrika 6, 1-25): both are runs on the
    same machine, so a side with a single run takes its variance from the other side. If old and new alternate, a drift
    that both share only makes the test conservative. `least_variance` replaces a smaller estimate.
    """
    df = len(old) + len(new) - 2
    if df < 1 or not old or not new:
        return None
    variance = max(run_variance(old, new), least_variance)
    error = math.sqrt(variance * (1 / len(old) + 1 / len(new)))
    return Difference(fmean(new) - fmean(old), error, df)


def run_variance(old: Sequence[float], new: Sequence[float]) -> float:
    """The variance between runs, pooled over both sides, which need three runs together."""
    squares = sum((value - fmean(side)) ** 2 for side in (old, new) for value in side)
    return squares / (len(old) + len(new) - 2)


def student_tail(t: float, df: int) -> float:
    """P(T > t) of Student's t with `df` degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Implemented here because a device that runs `bench` has no scipy.
    """
    theta = math.atan(t / math.sqrt(df))
    cosine, square = math.cos(theta), math.cos(theta) ** 2
    odd = df % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, df, 2):
        total += term
        term *= square * k / (k + 1)
    inside = 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return (1 - inside) / 2


@cache
def student_t(tail: float, df: int) -> float:
    """The value that Student's t exceeds with probability `tail`, which is below one half."""
    low, high = 0.0, 1.0
    while student_tail(high, df) > tail:
        low, high = high, 2 * high
    return falling_root(lambda t: student_tail(t, df) - tail, low, high)


def ratio_interval(value: float, low: float, high: float, claims: int = 1) -> tuple[float, float]:
    """The interval of a ratio of two cells, including their offsets, from the 95 % interval of its rounds.

    `claims` such intervals hold together with 95 % (Bonferroni). Logarithms are assumed to be normal.
    """
    z = NormalDist().inv_cdf(1 - 0.025 / claims)
    down, up = (math.hypot(z * CELL_OFFSET * math.sqrt(2), z * rounds_error(value, end)) for end in (low, high))
    return value * math.exp(-down), value * math.exp(up)


def mean_interval(values: Sequence[float], errors: Sequence[float], offsets: int = 2) -> tuple[float, float, float]:
    """Geometric mean of ratios and its 95 % interval.

    In logarithms, each ratio has the standard error `errors` from its rounds, and the offsets of `offsets` cells.
    """
    mean = math.fsum(map(math.log, values)) / len(values)
    variance = math.fsum(error**2 + offsets * CELL_OFFSET**2 for error in errors)
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / len(values)
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def rounds_error(value: float, end: float) -> float:
    """The standard error of a ratio's logarithm, from one end of its 95 % interval."""
    return abs(math.log(value / end)) / NormalDist().inv_cdf(0.975)
