"""What one run can't know of a cell: how far another run of the same would lie from it.

An engine that is loaded again, or a minute later, differs by some percent, and no number of rounds of one run shows it.
Sentences that compare cells of one run (which engine is fastest, where INT8 pays) allow for `CELL_OFFSET` of each.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

# the standard deviation that is allowed for: the largest of those that `studies.runs` simulates
CELL_OFFSET = 0.03


def ratio_interval(value: float, low: float, high: float, claims: int = 1) -> tuple[float, float]:
    """The interval of a ratio of two cells with their offsets, from the 95 % interval of its rounds.

    `claims` such intervals hold together with 95 % (Bonferroni). Logarithms are taken as normal.
    """
    z = NormalDist().inv_cdf(1 - 0.025 / claims)
    down, up = (math.hypot(z * CELL_OFFSET * math.sqrt(2), z * rounds_error(value, end)) for end in (low, high))
    return value * math.exp(-down), value * math.exp(up)


def mean_interval(values: Sequence[float], errors: Sequence[float], offsets: int = 2) -> tuple[float, float, float]:
    """Geometric mean of ratios and its 95 % interval; each has the standard error `errors`, in logarithms, of its
    rounds, and `offsets` cells' offsets.
    """
    mean = math.fsum(map(math.log, values)) / len(values)
    variance = math.fsum(error**2 + offsets * CELL_OFFSET**2 for error in errors)
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / len(values)
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def rounds_error(value: float, end: float) -> float:
    """The standard error of a ratio's logarithm from one end of its 95 % interval."""
    return abs(math.log(value / end)) / NormalDist().inv_cdf(0.975)
