"""How many images a gate needs, before any is evaluated."""

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.gate import MOST_IMAGES, PASS, WHOLE, Budget, Spending, decide, scipy_stats
from resnetrt.benchmarks.accuracy.looks import look_share
from resnetrt.benchmarks.stats.noninferiority import critical
from resnetrt.errors import UsageError

_SIGMAS = 8.0
_FIRST = Spending(look_share(1))


@dataclass(frozen=True)
class Plan:
    """On `n` images all `engines` pass at the first look with a probability of at least `power`.

    This assumes a true drop of `true_drop_pp` and a share `flip_rate` of flips for each engine. One engine alone passes
    with probability `power_each`.
    """

    n: int
    power: float
    power_each: float
    engines: int
    flip_rate: float
    true_drop_pp: float

    def to_json(self) -> dict[str, Any]:
        """The plan under its field names."""
        return asdict(self)


def plan(budget: Budget, flip_rate: float, power: float = 0.9, true_drop_pp: float = 0.0, engines: int = 1) -> Plan:
    """The fewest images (to about 1 %) on which all `engines` pass with a probability of at least `power`.

    The probabilities that an engine does not pass are added (Boole's inequality), so nothing is assumed about how the
    engines depend on each other. Every flip is assumed to change right to wrong or back, which needs the most images.
    Raises `UsageError` for a budget that is not in percentage points or numbers that contradict each other,
    `BackendMissing` without scipy.
    """
    _check(budget, flip_rate, power, true_drop_pp, engines)
    assert budget.max_drop_pp is not None
    each = 1 - (1 - power) / engines
    quantiles = critical(budget.confidence) + critical(each)
    margin = (budget.max_drop_pp - true_drop_pp) / 100
    n, step = max(20, math.ceil(quantiles**2 * flip_rate / margin**2 / 2)), 1.2  # half of the normal approximation
    while pass_chance(n, budget, flip_rate, true_drop_pp) < each:
        n = int(n * step) + 1
    low, high = int(n / step), n
    while high - low > max(1, n // 200):
        middle = (low + high) // 2
        good = pass_chance(middle, budget, flip_rate, true_drop_pp) >= each
        low, high = (low, middle) if good else (middle, high)
    reached = pass_chance(high, budget, flip_rate, true_drop_pp)
    return Plan(high, 1 - engines * (1 - reached), reached, engines, flip_rate, true_drop_pp)


def fewest_images(budget: Budget, spending: Spending = WHOLE) -> int:
    """The fewest images on which an engine passes that equals its reference, if the reference is always right."""
    sizes = range(1, MOST_IMAGES)
    return sizes[bisect_left(sizes, True, key=lambda n: bool(decide(n, 0, 0, n, budget, spending) == PASS))]


def pass_chance(n: int, budget: Budget, flip_rate: float, true_drop_pp: float) -> float:
    """The exact probability of PASS at the first look.

    It is summed over the number of flips, which is binomial, and over how many of them are losses.
    """
    stats = scipy_stats()
    spread = _SIGMAS * np.sqrt(n * flip_rate) + _SIGMAS
    flips = np.arange(max(0, int(n * flip_rate - spread)), min(n, int(n * flip_rate + spread)) + 1)
    most = _most_losses(flips, n, budget)
    loss_share = (flip_rate + true_drop_pp / 100) / (2 * flip_rate)
    passes = np.where(most >= 0, stats.binom.cdf(most, flips, loss_share), 0.0)
    return float((stats.binom.pmf(flips, n, flip_rate) * passes).sum())


def _most_losses(flips: npt.NDArray[np.int64], n: int, budget: Budget) -> npt.NDArray[np.int64]:
    """For each number of flips the largest number of losses that still passes, -1 if none does; found by bisection."""
    low, high = np.full(len(flips), -1), flips.copy()
    while (low < high).any():
        middle = (low + high + 1) // 2
        passes = decide(n - flips, middle, flips - middle, n, budget, _FIRST) == PASS
        low, high = np.where(passes, middle, low), np.where(passes, high, middle - 1)
    return low


def _check(budget: Budget, flip_rate: float, power: float, true_drop_pp: float, engines: int) -> None:
    if budget.max_drop_pp is None:
        raise UsageError("--plan: expected --max-drop; for --min-relative R take (1 - R) times the top-1 you expect")
    if engines < 1:
        raise UsageError(f"--engines: expected a positive number, found {engines}")
    if not 0 < flip_rate <= 1:
        raise UsageError(f"--flip-rate: expected a share above 0 and at most 1, found {flip_rate}")
    if not 0 < power < 1:
        raise UsageError(f"--power: expected a share between 0 and 1, found {power}")
    if abs(true_drop_pp) / 100 > flip_rate or true_drop_pp >= budget.max_drop_pp:
        raise UsageError(
            f"--true-drop: expected less than the budget of {budget.max_drop_pp:g} pp and at most the flip rate, "
            f"found {true_drop_pp:g} pp"
        )
