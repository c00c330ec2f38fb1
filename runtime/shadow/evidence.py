"""Evidence that something happens more often than it may, valid whenever it is looked at.

`RateEvidence` is an e-process: while each new observation is a hit with a chance of at most `rate` given the earlier
ones, its expected value is at most 1 at any stopping time, so it ever reaches 1/a with a probability of at most a
(Ville's inequality). It is a mixture of likelihood ratios, which for hits and misses are the bets of Waudby-Smith and
Ramdas (2024, "Estimating means of bounded random variables by betting", JRSS B 86(1)), over

- the rate after the change, on a grid, and
- the observation at which the change came. A bet that ran from the start would have lost everything during a long sound
  time; here a new one begins at every observation (the mixture of Shin, Ramdas and Rinaldo, 2023, "E-detectors", with
  weights that sum to 1, so that the false alarms of the whole lifetime are bounded and not only their frequency).
"""

import numpy as np
import numpy.typing as npt

from resnetrt.errors import UsageError

_HIGHEST_RATE = 0.9
_ALTERNATIVES = 8
_LAST_ALTERNATIVE = 0.95
_FROM_START = 0.5  # weight of "wrong from the first observation"; the rest is spread over all later ones
_SPREAD = 64.0

Values = npt.NDArray[np.float64]


class RateEvidence:
    """An e-process against "a hit has a chance of at most `rate`", for one sequence or many at once.

    `rate` has the shape of what `add` takes: `()` for one sequence, `(runs,)` to simulate many. Raises `UsageError`
    for a rate outside (0, 0.9]: nothing could be told apart from it.
    """

    def __init__(self, rate: npt.ArrayLike) -> None:
        allowed = np.asarray(rate, np.float64)[..., None]
        if not ((allowed > 0) & (allowed <= _HIGHEST_RATE)).all():
            raise UsageError(f"shadow check: expected a rate above 0 and up to {_HIGHEST_RATE}, found {rate!r}")
        low = np.minimum(2 * allowed, (allowed + _LAST_ALTERNATIVE) / 2)
        steps = np.linspace(0, 1, _ALTERNATIVES)
        alternative = low ** (1 - steps) * _LAST_ALTERNATIVE**steps
        self._hit = alternative / allowed
        self._miss = (1 - alternative) / (1 - allowed)
        self._running = np.full(alternative.shape, _FROM_START)
        self.n = 0

    def add(self, hit: npt.ArrayLike) -> Values:
        """Take one observation of each sequence; returns the value now, of the shape of `rate`."""
        waiting = self._waiting()
        self.n += 1
        begun = waiting - self._waiting()
        bet = np.where(np.asarray(hit, bool)[..., None], self._hit, self._miss)
        self._running = np.minimum((self._running + begun) * bet, 1e300)
        return self.value

    @property
    def value(self) -> Values:
        """The evidence now; 1 before the first observation."""
        mean: Values = self._running.mean(-1)
        return mean + self._waiting()

    def _waiting(self) -> float:
        """Weight of the bets that have not begun: falls like 1/log n, the slowest that a change at n pays for."""
        return (1 - _FROM_START) * float(np.log(_SPREAD) / np.log(_SPREAD + self.n))


def upper_rate(hits: int, n: int, chance: float) -> float:
    """The largest rate at which `hits` of `n` or fewer have a probability of `chance` (Clopper and Pearson 1934).

    The true rate is larger with a probability of at most `chance`, whatever it is. 1 if all are hits.
    """
    if not 0 <= hits <= n or n < 1:
        raise UsageError(f"shadow check: expected 0 to n hits of at least one observation, found {hits} of {n}")
    if hits == n:
        return 1.0
    counts = np.arange(hits + 1)
    ratios = np.log((n - counts[:-1]) / (counts[:-1] + 1))
    log_binomials = np.concatenate([[0.0], np.cumsum(ratios)])
    low, high = hits / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        terms = log_binomials + counts * np.log(middle) + (n - counts) * np.log1p(-middle)
        low, high = (middle, high) if np.exp(terms).sum() > chance else (low, middle)
    return float(high)
