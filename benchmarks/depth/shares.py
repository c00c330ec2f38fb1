"""The lab's time: the budget divided among groups of cells, and the seconds that each part took."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Now = Callable[[], float]


class Shares:
    """Divides a budget in seconds: each group gets its weight's share of what is left; None is no limit."""

    def __init__(self, budget_s: float | None, weights: Sequence[float] = (1.0,), now: Now = time.monotonic) -> None:
        self._now = now
        self._end = None if budget_s is None else now() + budget_s
        self._weights = deque(weights)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self._end is not None and self._now() >= self._end

    def next(self) -> float | None:
        """Seconds for the next group. A group always finishes its warm-up and one round, so it may take longer."""
        if self._end is None:
            return None
        total = sum(self._weights)
        return max(0.001, self._end - self._now()) * self._weights.popleft() / total


class Parts:
    """Seconds for each part of a run."""

    def __init__(self, now: Now = time.monotonic) -> None:
        self._now = now
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the duration of the block to part `name`, also if the block raises."""
        started = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
