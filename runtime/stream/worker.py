"""Runs batches on one session: gathers the requests' images, infers, hands out each request's part."""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from resnetrt.runtime.session import Array, Outputs, Session
from resnetrt.runtime.stream.faults import EngineFailed
from resnetrt.runtime.stream.pending import Request
from resnetrt.runtime.stream.statistics import Execution, Statistics

# Requests of at most this many bytes are copied under the interpreter's lock. numpy releases the lock to copy an image,
# and then waits for busy threads to get it back: 0.4 ms instead of 0.12 for eight images of ImageNet's size.
_SMALL = 1 << 18

_log = logging.getLogger("resnetrt.stream")


class Worker:
    """One instance of the engine. Used by one thread."""

    def __init__(
        self,
        session: Session,
        frames: bool,
        max_batch_size: int,
        statistics: Statistics,
        after: Callable[[Array, Outputs, Session], None] | None,
    ) -> None:
        self._session = session
        self._frames = frames
        self._statistics = statistics
        self._after = after
        self._least = session.batch_limits[0]
        self._room = max(max_batch_size, self._least)
        self._buffer: Array | None = None
        self._bytes = memoryview(b"")  # of the buffer

    def run(self, members: Sequence[Request], session: Session | None = None) -> None:
        """Answer every member. If a batch fails, its members run one by one, so that one can't fail all.

        The members' answers are running already. `session` is another instance to use this time.
        """
        session = session or self._session
        try:
            outputs, execution = self._infer(members, session)
            parts = _split(outputs, members)
        except Exception as error:  # each backend has its own types
            if len(members) > 1:
                _log.warning("a batch of %d requests failed, each runs again alone: %s", len(members), error)
                for member in members:
                    self.run([member], session)
            else:
                self._fail(members[0], error)
            return
        self._statistics.executed(execution)
        for member, part in zip(members, parts, strict=True):
            member.answer.set_result(part)

    def _infer(self, members: Sequence[Request], session: Session) -> tuple[Outputs, Execution]:
        started = time.monotonic_ns()
        images = sum(len(member.batch) for member in members)
        batch = self._gather(members, images)
        if self._frames:
            batch = session.prepare(batch)
        gathered = time.monotonic_ns()
        outputs = session.infer(batch)
        inferred = time.monotonic_ns()
        if len(batch) > images:
            outputs = {name: value[:images] for name, value in outputs.items()}
        self._tell(batch[:images], outputs, session)
        done = time.monotonic_ns()
        queued = tuple(member.queued_ns for member in members)
        return outputs, Execution(images, queued, started, gathered - started, inferred - gathered, done - inferred)

    def _tell(self, batch: Array, outputs: Outputs, session: Session) -> None:
        if self._after is None:
            return
        try:
            self._after(batch, outputs, session)
        except Exception:  # an observer must not fail the requests
            _log.exception("engine %s: what is called after each batch failed", session.record.id)

    def _gather(self, members: Sequence[Request], images: int) -> Array:
        """The members' images as one batch: a single request's own array where it will do, else the one buffer.

        Engines take an array as it is if it is contiguous, aligned and writable.
        """
        first = members[0].batch
        if len(members) == 1 and images >= self._least and first.flags.carray:
            return first
        if self._buffer is None:
            self._buffer = self._new_buffer(first)
            self._bytes = self._buffer.reshape(-1).view(np.uint8).data
        at = 0
        for member in members:
            batch = member.batch
            if batch.nbytes <= _SMALL and batch.flags.c_contiguous:
                start = at * batch[0].nbytes
                self._bytes[start : start + batch.nbytes] = batch.reshape(-1).view(np.uint8).data
            else:
                self._buffer[at : at + len(batch)] = batch
            at += len(batch)
        return self._buffer[: max(images, self._least)]

    def _new_buffer(self, first: Array) -> Array:
        """Room for the largest batch, in the memory that the engine likes best if it takes what the requests are."""
        spec = self._session.inputs[0]
        if first.dtype != spec.dtype or self._session.closed:
            return np.zeros((self._room, *first.shape[1:]), first.dtype)
        buffer = self._session.staging(self._room)
        buffer[...] = 0  # rows that fill a batch up are read, though nobody gets what comes of them
        return buffer

    def _fail(self, member: Request, error: Exception) -> None:
        self._statistics.ended("failed", time.monotonic_ns() - member.queued_ns)
        _log.error("engine %s failed on a request: %s", self._session.record.id, error)
        fault = EngineFailed(f"engine {self._session.record.id}: inference failed: {error}")
        fault.__cause__ = error
        member.answer.set_exception(fault)


def _split(outputs: Outputs, members: Sequence[Request]) -> list[Outputs]:
    """Each member's rows of the outputs."""
    parts, first = [], 0
    for member in members:
        rows = slice(first, first + len(member.batch))
        first = rows.stop
        parts.append({name: value[rows] for name, value in outputs.items()})
    return parts
