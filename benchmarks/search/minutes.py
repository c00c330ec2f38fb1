"""The minutes of a search: how long its parts take, as measured so far, and what must be reserved for later parts."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from resnetrt.benchmarks.measure.timing import Schedule

Clock = Callable[[], float]  # seconds
_GOLDEN = 64  # most images for checking a variant and its engine
_SHORTEST_S = 1e-3


class OutOfTime(Exception):
    """The rest of the budget is needed for later parts."""


@dataclass
class SearchTime:
    """All in seconds; `images` is the size of each half of the data. Values that are not measured yet are 0.

    `reference_s` is the time per image for decoding and the FP32 file, `trial_s` the time per image of the slowest
    trial, `open_s` the time to make and load the last trial, `call_s` the call time of the slowest engine timed.
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
        """The rest of the budget; negative if it is exceeded."""
        return self._end - self.clock()

    def whole(self, blocks: int, scored: int, schedules: tuple[Schedule, Schedule, Schedule]) -> float:
        """About the seconds for it all, before it begins: `scored` images for the noise of each block, then timing.

        `schedules` are those of the race between precisions, of the blocks and of the end. A search halves the ranking,
        and then looks at a few neighbours.
        """
        race, each, final = schedules
        trials = math.ceil(math.log2(blocks + 1)) + 3
        scoring = self.images * self.reference_s + blocks * (self.open_s + scored * self.reference_s)
        timing = self.timing(3, race) + self.timing(blocks + 1, each)
        return scoring + timing + trials * self.evaluation() + self.reserve(trials, final)

    def evaluation(self) -> float:
        """The time for one trial. Before the first is measured, a trial is assumed to be as slow as the reference."""
        return self.open_s + self.images * (self.trial_s or self.reference_s)

    def confirming(self) -> float:
        """The time for a trial on the held-out images, and for the reference, which has not run on them yet."""
        return self.evaluation() + self.images * self.reference_s

    def storing(self) -> float:
        """The time to make and check the chosen variant, then its engine."""
        return 2 * (self.open_s + _GOLDEN * self.reference_s)

    def timing(self, candidates: int, schedule: Schedule) -> float:
        """The time to load `candidates` and to time them side by side."""
        return candidates * (self.open_s + schedule.most_s(max(self.call_s, self.reference_s)))

    def reserve(self, candidates: int, schedule: Schedule) -> float:
        """The time after the search: confirmation with the reference on new images, storing, and the last timing."""
        return self.confirming() + self.storing() + self.timing(candidates, schedule)

    def within(self, schedule: Schedule, reserve: float = 0.0) -> Schedule:
        """`schedule`, with fewer rounds if it would use more time than is left before `reserve`."""
        return replace(schedule, budget_s=max(self.left() - reserve, _SHORTEST_S))

    def short_of(self, seconds: float) -> bool:
        """Whether less time than that is left."""
        return self.left() < seconds

    def check(self, seconds: float = 0.0) -> None:
        """Raise `OutOfTime` if less time than that is left."""
        if self.short_of(seconds):
            raise OutOfTime

    def opened(self, seconds: float) -> None:
        """Note how long the last trial took to make and load; for the first this includes importing its backend."""
        self.open_s = seconds
