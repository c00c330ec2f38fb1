"""The minutes of a search: how long its parts take, as measured so far, and what must be left for those that follow."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from resnetrt.benchmarks.measure.timing import Schedule

Clock = Callable[[], float]  # seconds
_GOLDEN = 64  # images that a variant and its engine are checked with, at most
_SHORTEST_S = 1e-3


class OutOfTime(Exception):
    """What is left of the budget is needed for what follows."""


@dataclass
class SearchTime:
    """All in seconds; `images` is the size of each half of the data. What has not been measured yet is 0.

    `reference_s` is an image through decoding and the FP32 file, `trial_s` an image through the slowest trial, `open_s`
    making and loading the last trial, `call_s` a call of the slowest that was timed.
    """

    budget_s: float
    clock: Clock = time.monotonic
    images: int = 0
    reference_s: float = 0.0
    trial_s: float = 0.0
    open_s: float = 0.0
    call_s: float = 0.0

    def __post_init__(self) -> None:
        self._end = self.clock() + self.budget_s

    def left(self) -> float:
        """What is left of the budget; negative beyond it."""
        return self._end - self.clock()

    def evaluation(self) -> float:
        """One trial. Before the first has been measured its images are taken to be as slow as the reference's."""
        return self.open_s + self.images * (self.trial_s or self.reference_s)

    def confirming(self) -> float:
        """A trial on the held-out images, with the reference, which has not seen them."""
        return self.evaluation() + self.images * self.reference_s

    def storing(self) -> float:
        """Making and checking the chosen variant, then its engine."""
        return 2 * (self.open_s + _GOLDEN * self.reference_s)

    def timing(self, candidates: int, schedule: Schedule) -> float:
        """Loading `candidates` and timing them side by side."""
        return candidates * (self.open_s + schedule.most_s(max(self.call_s, self.reference_s)))

    def reserve(self, candidates: int, schedule: Schedule) -> float:
        """What follows the search: the confirmation, with the reference on new images, storing and the last timing."""
        return self.confirming() + self.storing() + self.timing(candidates, schedule)

    def within(self, schedule: Schedule, reserve: float = 0.0) -> Schedule:
        """`schedule`, with fewer rounds where it would use more than is left before `reserve`."""
        return replace(schedule, budget_s=max(self.left() - reserve, _SHORTEST_S))

    def short_of(self, seconds: float) -> bool:
        """Whether less than that is left."""
        return self.left() < seconds

    def check(self, seconds: float = 0.0) -> None:
        """Raise `OutOfTime` if less than that is left."""
        if self.short_of(seconds):
            raise OutOfTime

    def opened(self, seconds: float) -> None:
        """Learn how long the last trial took to make and load; the first one imported its backend too."""
        self.open_s = seconds
