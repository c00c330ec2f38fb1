"""The queue of a batcher: which requests form the next batch, and which are over."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from resnetrt.runtime.session import Array, Outputs
from resnetrt.runtime.stream.options import BatchOptions

Clock = Callable[[], int]


class Answer(Protocol):
    """The receiver of a request's outputs: a part of `concurrent.futures.Future`'s interface. Called in any thread."""

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def set_running_or_notify_cancel(self) -> bool:
        """From now on it can't be cancelled; False if it was."""

    def set_result(self, result: Outputs, /) -> None:
        """The outputs are there."""

    def set_exception(self, exception: BaseException, /) -> None:
        """There will be none."""


@dataclass(eq=False)
class Request:
    """A batch that waits: `owner` is the stream it came from, times are monotonic nanoseconds, 0 is no deadline."""

    batch: Array
    owner: object
    answer: Answer
    deadline_ns: int = 0
    queued_ns: int = 0


class Pending:
    """Requests in the order they came. Not for several threads: the batcher locks."""

    def __init__(self, options: BatchOptions, clock: Clock = time.monotonic_ns) -> None:
        self._options = options
        self._clock = clock
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def add(self, request: Request) -> None:
        """Queue a request, from now on."""
        request.queued_ns = self._clock()
        self._requests.append(request)

    def count_of(self, owner: object) -> int:
        """How many requests of `owner` wait."""
        return sum(request.owner is owner for request in self._requests)

    def take_oldest_of(self, owner: object) -> Request:
        """Remove and return the request of `owner` that has waited longest; there must be one."""
        oldest = next(request for request in self._requests if request.owner is owner)
        self._requests.remove(oldest)
        return oldest

    def take_over(self) -> list[Request]:
        """Remove and return the requests that were cancelled or whose deadline has passed."""
        now = self._clock()
        over = [r for r in self._requests if r.answer.cancelled() or 0 < r.deadline_ns <= now]
        if over:
            gone = set(map(id, over))
            self._requests = deque(request for request in self._requests if id(request) not in gone)
        return over

    def take_all(self) -> list[Request]:
        """Remove and return every request."""
        requests = list(self._requests)
        self._requests.clear()
        return requests

    def hold_ns(self) -> int:
        """How long to wait for a larger batch; 0 if what is queued should run now. There must be a request.

        No request spends more than half of its time on that: it would be too late for its own answer.
        """
        options = self._options
        images, more = self._fitting(options.max_batch_size)
        if more or images == options.max_batch_size or any(size <= images for size in options.preferred_batch_size):
            return 0
        waited = self._clock() - self._requests[0].queued_ns
        hold = options.max_queue_delay_microseconds * 1_000 - waited
        halfway = [(r.queued_ns + r.deadline_ns) // 2 for r in self._requests if r.deadline_ns]
        return max(0, min(hold, min(halfway) - self._clock()) if halfway else hold)

    def take_batch(self) -> list[Request]:
        """Remove and return the requests of the next batch, at least one, in the order they came."""
        most = self._options.max_batch_size
        waiting, _ = self._fitting(most)
        limit = max((size for size in self._options.preferred_batch_size if size <= waiting), default=most)
        taken = [self._requests.popleft()]
        images = len(taken[0].batch)
        while self._requests and images + len(self._requests[0].batch) <= limit:
            taken.append(self._requests.popleft())
            images += len(taken[-1].batch)
        return taken

    def _fitting(self, limit: int) -> tuple[int, bool]:
        """Images of the first requests that fit in a batch of `limit`, and whether one more waits that does not."""
        images = 0
        for request in self._requests:
            if images + len(request.batch) > limit:
                return images, True
            images += len(request.batch)
        return images, False
