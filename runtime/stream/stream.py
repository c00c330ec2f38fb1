"""One source of requests, such as a camera: its own bound on what waits, its own buffers and latencies."""

import threading
import time
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from resnetrt.errors import UsageError
from resnetrt.runtime.session import Array, Outputs
from resnetrt.runtime.stream.faults import DeadlineExceeded, Dropped, Overloaded
from resnetrt.runtime.stream.histogram import LatencyHistogram
from resnetrt.runtime.stream.pending import Request

if TYPE_CHECKING:
    from resnetrt.runtime.stream.batcher import Batcher

OVERLOAD = ("reject", "drop-oldest")
_OUTCOMES: dict[type[BaseException], str] = {Dropped: "dropped", DeadlineExceeded: "expired"}


class Stream:
    """Made by `Batcher.stream`. Its requests share batches with those of other streams, in the order they came.

    `latency` counts the time from the call to the outputs. `counts` has the requests by what became of them: `done`,
    `late` (done, but past their deadline), `dropped`, `rejected`, `expired`, `cancelled`, `failed`.
    """

    def __init__(self, batcher: "Batcher", capacity: int, overload: str) -> None:
        if overload not in OVERLOAD:
            raise UsageError.unknown("overload policy", overload, OVERLOAD)
        if capacity < 1:
            raise UsageError(f"stream capacity: expected at least 1, found {capacity}")
        self.latency = LatencyHistogram()
        self.counts: Counter[str] = Counter()
        self._batcher = batcher
        self._capacity = capacity
        self._drop_oldest = overload == "drop-oldest"
        self._lock = threading.Lock()
        self._most_buffers = capacity * (1 + len(batcher.sessions)) + 1
        self._lent: dict[int, Array] = {}
        self._free: list[Array] = []

    def buffer(self) -> Array:
        """An image-sized array `(1, ...)` to fill and pass to `infer_async`; it is lent again when that is done.

        Its memory is read by the engine where it lies. Raises `Overloaded` if too many are out: the caller keeps
        buffers without passing them on, or overloads a stream that rejects.
        """
        self._batcher.require_here()
        with self._lock:
            if not self._free:
                if len(self._lent) >= self._most_buffers:
                    self.counts["rejected"] += 1
                    raise Overloaded(f"all {self._most_buffers} buffers of the stream are in use")
                self._free.append(np.zeros((1, *self._batcher.image_shape), self._batcher.dtype))
            lent = self._free.pop()
            self._lent[id(lent)] = lent
            return lent

    def infer_async(self, batch: Array, timeout_microseconds: int = 0) -> Future[Outputs]:
        """Queue a batch; the future gives arrays by output name, the caller's to keep.

        `batch` is only read, and must not change until the future is done. With `timeout_microseconds` a request that
        could not start in time fails with `DeadlineExceeded`. Raises `UsageError` for another dtype or shape,
        `Overloaded` if the stream rejects, `Closed`. The future may also raise `Dropped` or `EngineFailed`; cancelling
        it takes the request out of the queue.
        """
        self._batcher.check(batch)
        started, key = time.monotonic_ns(), id(batch)
        deadline = self._batcher.deadline_ns(timeout_microseconds)
        future: Future[Outputs] = Future()
        # no reference to the request or its batch: a future keeps its callbacks, so the cycle would keep the batch
        future.add_done_callback(lambda future: self._done(future, key, started, deadline))
        try:
            self._batcher.submit(Request(batch, self, future, deadline), self._capacity, self._drop_oldest)
        except Overloaded:
            self._count("rejected", key)
            raise
        return future

    def infer(self, batch: Array, timeout_microseconds: int = 0) -> Outputs:
        """`infer_async`, waiting for the outputs."""
        return self.infer_async(batch, timeout_microseconds).result()

    def _done(self, future: Future[Outputs], key: int, started: int, deadline: int) -> None:
        ended = time.monotonic_ns()
        error = None if future.cancelled() else future.exception()
        if future.cancelled():
            outcome = "cancelled"
        elif error is None:
            outcome = "late" if 0 < deadline < ended else "done"
            self.latency.record(ended - started)
        else:
            outcome = _OUTCOMES.get(type(error), "failed")
        self._count(outcome, key)

    def _count(self, outcome: str, key: int) -> None:
        """Count what became of a request, and take its buffer back if it is one of the stream's."""
        with self._lock:
            self.counts[outcome] += 1
            lent = self._lent.pop(key, None)
            if lent is not None:
                self._free.append(lent)
