"""How many images a second an engine gives with several contexts, each in a thread of its own; many batches a call.

Contexts of one engine share its weights on a GPU, where their kernels and copies overlap. On a CPU each is a session of
its own, with its part of the threads.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from typing import Any, TypedDict

import numpy.typing as npt

from resnetrt.benchmarks.measure.latency import CPU
from resnetrt.benchmarks.measure.timing import Schedule, Timing, measure, ratio
from resnetrt.bundle import Bundle
from resnetrt.runtime import load
from resnetrt.runtime.load import load_another
from resnetrt.runtime.session import Session

# A shorter call would time the start of the threads; the mean of a few batches tells well enough how many fill it.
_CALL_S, _TRIED = 0.05, 4
_LEAST, _MOST = 4, 2000  # batches of each context in a call
Images = npt.NDArray[Any]
Interval = tuple[float, float]


class ContextsRow(TypedDict):
    """An engine with so many `contexts`, of `threads` CPU threads each. Each runs `batches` batches in a timed call.

    `times_one` is its rate over that of one context, paired by rounds; None with fewer than six. `n` calls were timed.
    Intervals are lists once a record is read back.
    """

    network: str
    engine: str
    backend: str
    precision: str
    device: str
    batch: int
    contexts: int
    threads: int
    batches: int
    n: int
    images_per_s: float
    images_per_s_ci: Interval
    ci_confidence: float
    times_one: float | None
    times_one_ci: Interval | None


class WatchedContextsRow(ContextsRow):
    """A row of `contexts[]`: the same, and whether something else used the machine meanwhile."""

    disturbed: bool


def measure_contexts(
    bundle: Bundle, engine: str, device: str, images: Images, counts: Sequence[int], threads: int, schedule: Schedule
) -> list[ContextsRow]:
    """A row for one context and for each of `counts`, timed side by side on the batch `images`.

    `device` is `cpu` or `gpu`. Raises as `runtime.load`.
    """
    with ExitStack() as stack:
        first = stack.enter_context(load(bundle, engine, threads=threads))
        batches = _batches(first, images)
        crews: dict[int, _Crew] = {}
        sessions = [first]
        for count in sorted({1, *counts}):
            each = max(1, threads // count) if device == CPU else threads
            own = sessions if device != CPU or count == 1 else list[Session]()
            while len(own) < count:
                own.append(stack.enter_context(load_another(bundle, first, each)))
            crews[count] = stack.enter_context(_Crew(own[:count], images, batches))
        timings = measure({str(count): crew for count, crew in crews.items()}, schedule)
        record = first.record
        about = (bundle.manifest.name, engine, record.backend, record.precision, device, len(images))
        return [
            _row(about, count, crew.sessions[0].threads, batches, timings["1"], timings[str(count)])
            for count, crew in crews.items()
        ]


class _Crew:
    """A thread for each session; a call runs `batches` batches on every session, and ends with the last of them."""

    def __init__(self, sessions: Sequence[Session], images: Images, batches: int) -> None:
        self.sessions, self._images, self._batches = sessions, images, batches
        self._pool = ThreadPoolExecutor(len(sessions), "resnetrt-context")

    def __call__(self) -> None:
        for future in [self._pool.submit(self._run, session) for session in self.sessions]:
            future.result()

    def _run(self, session: Session) -> None:
        for _ in session.infer_batches(repeat(self._images, self._batches)):
            pass

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _batches(session: Session, images: Images) -> int:
    """How many batches a call has."""
    for _ in range(2):  # contexts, graphs and buffers are made before
        list(session.infer_batches(repeat(images, 2)))
    started = time.perf_counter()
    list(session.infer_batches(repeat(images, _TRIED)))
    return min(_MOST, max(_LEAST, math.ceil(_CALL_S * _TRIED / (time.perf_counter() - started))))


def _row(
    about: tuple[str, str, str, str, str, int], count: int, threads: int, batches: int, one: Timing, own: Timing
) -> ContextsRow:
    network, engine, backend, precision, device, batch = about
    images = 1000 * batch * count * batches
    faster = ratio(one, own) if count > 1 else None
    low, high = own.ci_ms
    return ContextsRow(
        network=network,
        engine=engine,
        backend=backend,
        precision=precision,
        device=device,
        batch=batch,
        contexts=count,
        threads=threads,
        batches=batches,
        n=own.n,
        images_per_s=images / own.median_ms,
        images_per_s_ci=(images / high, images / low),
        ci_confidence=own.ci_confidence,
        times_one=None if faster is None else count * faster.value,
        times_one_ci=None if faster is None else (count * faster.low, count * faster.high),
    )
