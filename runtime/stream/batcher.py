"""One engine, one worker thread for each loaded instance of it, and the queue they take batches from."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.forks import PROCESS
from resnetrt.runtime.session import Array, Outputs, Session
from resnetrt.runtime.stream.faults import Closed, DeadlineExceeded, Dropped, Overloaded
from resnetrt.runtime.stream.instances import Instances, load_instances
from resnetrt.runtime.stream.options import BatchOptions
from resnetrt.runtime.stream.pending import Pending, Request
from resnetrt.runtime.stream.statistics import Statistics
from resnetrt.runtime.stream.stream import Stream
from resnetrt.runtime.stream.worker import Worker

# called after each batch with its input, its outputs and its session, in the worker thread; must not block
After = Callable[[Array, Outputs, Session], None]


class Batcher:
    """Runs requests of several streams in common batches. `instances` are those of one engine, owned from now on.

    A batch that starts while none runs and none waits takes the wide instance, if there is one. With `frames` requests
    are uint8 `(N, H, W, C)` frames, preprocessed as the bundle says; otherwise they have the dtype and shape of the
    engine's input. `after` is called with each batch that ran. It belongs to the process that made it: in one forked
    from that its calls raise `UsageError`, and `close` does nothing.
    """

    def __init__(
        self,
        instances: Instances | Sequence[Session],
        options: BatchOptions | None = None,
        *,
        frames: bool = False,
        statistics: Statistics | None = None,
        after: After | None = None,
    ) -> None:
        self._instances = instances if isinstance(instances, Instances) else Instances(tuple(instances))
        self.sessions = sessions = self._instances.sessions
        if not sessions:
            raise UsageError("batcher: expected at least one session, found none")
        self.options = options or BatchOptions()
        self.statistics = statistics or Statistics()
        self.dtype, self.image_shape = _request_kind(sessions[0], frames)
        low, high = sessions[0].batch_limits
        self.max_batch_size = min(self.options.max_batch_size, high or self.options.max_batch_size)
        if low > self.options.max_batch_size:
            raise UsageError(f"max_batch_size: the engine takes {low} images at least, found {self.max_batch_size}")
        most = self.max_batch_size
        preferred = tuple(size for size in self.options.preferred_batch_size if size <= most)
        self._pending = Pending(replace(self.options, max_batch_size=most, preferred_batch_size=preferred))
        self._changed = threading.Condition()
        self._closing = False
        self._running = 0
        self._warming: dict[threading.Thread, Future[None]] = {}  # threads that are to warm up
        self._forks = PROCESS.forks
        workers = [Worker(session, frames, self.max_batch_size, self.statistics, after) for session in sessions]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker, session), name=f"resnetrt-engine-{index}", daemon=True)
            for index, (worker, session) in enumerate(zip(workers, sessions, strict=True))
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def load(
        cls,
        bundle: Bundle | Path | str,
        engine: str | None = None,
        options: BatchOptions | None = None,
        *,
        instances: int | str = 1,
        threads: int | None = None,
        fallback: bool = False,
        frames: bool = False,
        device: str | None = None,
    ) -> "Batcher":
        """A batcher over `instances` of an engine, as `load_instances` counts them; other arguments as `runtime.load`.

        Raises what they raise.
        """
        return cls(load_instances(bundle, engine, instances, threads, fallback, device), options, frames=frames)

    def stream(self, capacity: int | None = None, overload: str = "reject") -> Stream:
        """A source of requests of which `capacity` may wait (default `max_queue_size`).

        One more is refused with `Overloaded` ("reject") or takes the place of the stream's oldest ("drop-oldest").
        """
        self.require_here()
        return Stream(self, self.options.max_queue_size if capacity is None else capacity, overload)

    def warm_up(self) -> None:
        """Run every batch size once on each instance, so that no request pays for what an engine prepares at first.

        Each in the thread that its requests will run in, as ONNX Runtime keeps CUDA graphs for each thread; one after
        the other. Only before the first request. Raises what the engine raises, and `Closed`.
        """
        self.require_here()
        for thread in self._threads:
            warmed: Future[None] = Future()
            with self._changed:
                if self._closing:
                    raise Closed("the engine is being closed and can't be warmed up")
                self._warming[thread] = warmed
                self._changed.notify_all()
            warmed.result()
        if self._instances.wide is not None:  # on CPUs only, whose engines know no threads
            self._warm(self._instances.wide)

    def _warm(self, session: Session) -> None:
        low, high = session.batch_limits
        for size in range(low, (low if low == high else self.max_batch_size) + 1):
            shape = (size, *(axis or 1 for axis in session.inputs[0].shape[1:]))
            session.infer(np.zeros(shape, session.inputs[0].dtype))

    def _warm_here(self, session: Session) -> None:
        """Warm up an engine in its own thread, which alone takes its entry."""
        warmed = self._warming.pop(threading.current_thread())
        try:
            self._warm(session)
        except BaseException as error:  # the caller's; the thread has to answer what comes
            warmed.set_exception(error)
        else:
            warmed.set_result(None)

    def require_here(self) -> None:
        """Raise `UsageError` in a process forked from the one that made the batcher: nobody there would answer."""
        PROCESS.require(self._forks, f"batcher of engine {self.sessions[0].record.id}")

    def check(self, batch: Array) -> None:
        """Raise `UsageError` unless `batch` is an array of this batcher's dtype and shape, of 1 to the most images."""
        if not isinstance(batch, np.ndarray) or batch.dtype != self.dtype or batch.shape[1:] != self.image_shape:
            description = f"{batch.dtype} {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
            axes = ", ".join(str(axis) for axis in self.image_shape)
            raise UsageError(f"request: expected {self.dtype} (N, {axes}), found {description}")
        if not 1 <= len(batch) <= self.max_batch_size:
            raise UsageError(f"request: expected 1 to {self.max_batch_size} images, found {len(batch)}")

    def submit(self, request: Request, capacity: int, drop_oldest: bool = False) -> None:
        """Queue a checked request of a stream with `capacity`. Raises `Overloaded` or `Closed`."""
        self.require_here()
        with self._changed:
            closing = self._closing  # a refused request must not displace waiting ones
            over = self._pending.take_over() if not closing and self._full(request, capacity) else []
            dropped = self._make_room(request, capacity) if not closing and drop_oldest else []
            full = self._full(request, capacity)
            if not (full or closing):
                self._pending.add(request)
                self._changed.notify()
        self._end(over)
        self._drop(dropped)
        if closing:
            raise Closed("the engine is being closed and takes no more requests")
        if full:
            self.statistics.ended("rejected")
            raise Overloaded(f"the queue is full: {len(self._pending)} requests wait; try again later")

    def deadline_ns(self, timeout_us: int) -> int:
        """When a request of now must have started, in monotonic nanoseconds: after its own timeout, else the default.

        0 is no deadline, as a timeout of 0 is none.
        """
        limit_us = timeout_us or self.options.default_timeout_microseconds
        return time.monotonic_ns() + limit_us * 1_000 if limit_us else 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._pending)

    @property
    def lost(self) -> str:
        """Why no request can be answered any more; empty as long as they can. See `Session.lost`."""
        return next(filter(None, (session.lost for session in self._instances.all)), "")

    def close(self, drain: bool = True) -> None:
        """Take no more requests, run those that wait (or fail them with `Closed`), and close the sessions.

        Raises `UsageError` in an engine's own thread, where callbacks of answers and `after` run.
        """
        if self._forks != PROCESS.forks:
            return  # threads, queue and engine are the first process's
        if threading.current_thread() in self._threads:
            raise UsageError("close: expected another thread than the engine's own; call it where you wait for answers")
        with self._changed:
            self._closing = True
            left = [] if drain else self._pending.take_all()
            self._changed.notify_all()
        for request in left:
            if request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(Closed("the engine was closed while the request waited"))
        for thread in self._threads:
            thread.join()
        self._instances.close()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _full(self, request: Request, capacity: int) -> bool:
        total = len(self._pending)
        return total >= self.options.max_queue_size or (
            total >= capacity and self._pending.count_of(request.owner) >= capacity
        )

    def _make_room(self, request: Request, capacity: int) -> list[Request]:
        """Remove older requests of the same stream from the queue, until this one fits or none is left."""
        dropped = []
        while self._full(request, capacity) and self._pending.count_of(request.owner):
            dropped.append(self._pending.take_oldest_of(request.owner))
        return dropped

    def _serve(self, worker: Worker, session: Session) -> None:
        while members := self._next_batch(session):
            with self._changed:
                alone = not self._running and not self._pending
                self._running += 1
            try:
                worker.run(members, self._instances.wide if alone else None)
            finally:
                with self._changed:
                    self._running -= 1

    def _next_batch(self, session: Session) -> list[Request]:
        """Wait for the next batch; empty when the batcher is closed and nothing waits."""
        while True:
            if self._is_to_warm():
                self._warm_here(session)
            with self._changed:
                over = self._pending.take_over()
                members = self._await_batch() if not over else []
                done = self._closing and not (self._pending or over or members or self._is_to_warm())
            self._end(over)
            running = [request for request in members if request.answer.set_running_or_notify_cancel()]
            for _ in range(len(members) - len(running)):
                self.statistics.ended("cancelled")
            if running or done:
                return running

    def _await_batch(self) -> list[Request]:
        """The next batch if one is ready; else wait until something changes, and give none."""
        if not self._pending:
            if not (self._closing or self._is_to_warm()):
                self._changed.wait()
            return []
        hold_ns = 0 if self._closing else self._pending.hold_ns()
        if hold_ns:
            self._changed.wait(hold_ns / 1e9)
            return []
        members = self._pending.take_batch()
        if self._pending:
            self._changed.notify()  # for another instance
        return members

    def _is_to_warm(self) -> bool:
        """Whether a warm-up of this thread's engine waits."""
        return threading.current_thread() in self._warming

    def _drop(self, dropped: list[Request]) -> None:
        for request in dropped:
            if request.answer.set_running_or_notify_cancel():
                self.statistics.ended("dropped", time.monotonic_ns() - request.queued_ns)
                request.answer.set_exception(Dropped("a newer request of the stream took this one's place"))
            else:
                self.statistics.ended("cancelled", time.monotonic_ns() - request.queued_ns)

    def _end(self, over: list[Request]) -> None:
        """Tell requests that were cancelled or too late; outside the lock, as answers may run callbacks."""
        now = time.monotonic_ns()
        for request in over:
            if request.answer.set_running_or_notify_cancel():
                self.statistics.ended("expired", now - request.queued_ns)
                waited = (now - request.queued_ns) / 1e6
                request.answer.set_exception(DeadlineExceeded(f"the request waited {waited:.1f} ms, past its deadline"))
            else:
                self.statistics.ended("cancelled", now - request.queued_ns)


def _request_kind(session: Session, frames: bool) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """The dtype of a request and the shape of one image in it."""
    spec, preprocessing = session.inputs[0], session.preprocessing
    if frames and spec.dtype != "uint8":
        if preprocessing is None:
            raise UsageError(f"engine {session.record.id}: no preprocessing is known; load it from its bundle")
        return np.dtype(np.uint8), (*preprocessing.size, preprocessing.channels)
    return np.dtype(spec.dtype), tuple(axis or 1 for axis in spec.shape[1:])
