"""The CUDA protocol in host memory, for tests: engines that are doubles run on it.

It is as lazy as a GPU: what is enqueued happens at `synchronize`, and who reads too early reads old values. Memory that
was freed is kept for a while, so that work which is late for it is refused and spoils nothing.
"""

import ctypes
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import DeviceLost, EnvironmentFault
from resnetrt.runtime.cuda.dlpack import DLPACK_CPU
from resnetrt.runtime.cuda.faults import fault
from resnetrt.runtime.cuda.protocol import Bytes
from resnetrt.runtime.cuda.scope import Scope

_ALIGNMENT = 256  # of cudaMalloc, at least
_KEPT_FREED = 16 << 20  # bytes of memory that was freed; the last that was freed is kept in any case
Work = Callable[[], object]


class HostCuda:
    """See `resnetrt.runtime.cuda.protocol.Cuda`; `counts` says how often each thing was done."""

    name = "host"
    supports_graphs = True
    dlpack_device = (DLPACK_CPU, 0)

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._memory: dict[int, Bytes] = {}
        self._freed: deque[Bytes] = deque()
        self._queues: dict[int, list[Work]] = {0: []}  # the default stream is there
        self._capturing: int | None = None
        self._captured: dict[int, int] = {}  # stream: how much of it is in the graph
        self._joined: dict[int, int] = {}  # stream: how much of it the captured one waits for
        self._graph: list[Work] = []
        self._capturer, self._spoilt = 0, False
        self._next = 1
        self._scope = Scope(lambda: None, lambda: None)
        self.lost = ""
        self.chance: random.Random | None = None

    def lose(self) -> None:
        """From now on every call fails but those that free, as after an illegal memory access."""
        self.lost = str(fault("CUDA: host memory: an illegal memory access was encountered", 700))

    def check(self) -> None:
        """See `Cuda`."""
        if self.lost:
            raise DeviceLost(self.lost)

    def current(self) -> Scope:
        """See `Cuda`."""
        return self._scope

    def require_current(self, call: str) -> None:
        """Refuse a call of another library in a thread that another device may be the current one of."""
        if not self._scope.active:
            raise AssertionError(f"{call}: the device is not the current one of this thread")

    @property
    def held(self) -> int:
        """How many allocations are not freed yet."""
        return len(self._memory)

    def is_captured(self, stream: int) -> bool:
        """Whether what is enqueued goes to a graph, and nothing runs."""
        return stream in self._captured

    def require_room(self, address: int, size_bytes: int) -> int:
        """The address, which must have so much room in memory that is not freed yet."""
        for start, array in self._memory.items():
            if start <= address and address + size_bytes <= start + array.nbytes:
                return address
        raise AssertionError(f"{size_bytes} bytes at {address:x} are not, or not all, in memory of the device")

    def require_alive(self, address: int, size_bytes: int) -> int:
        """The address, which must not be in memory that was freed; memory of others may be."""
        for array in tuple(self._freed):  # a collection may free meanwhile
            if array.ctypes.data < address + size_bytes and address < array.ctypes.data + array.nbytes:
                raise AssertionError(f"{size_bytes} bytes at {address:x} are in memory of the device that was freed")
        return address

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda`. Refused during a capture, as CUDA does."""
        self.check()
        if self._capturing is not None and self._capturer == threading.get_ident():  # other threads may
            raise EnvironmentFault("CUDA: host memory: an allocation is not allowed while a graph is captured")
        self.counts["allocate"] += 1
        room = np.full(size_bytes + _ALIGNMENT, 0xA5, np.uint8)  # never zeros: reading what was not written must show
        array = room[-room.ctypes.data % _ALIGNMENT :][:size_bytes]
        self._memory[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address: int) -> None:
        """See `Cuda`. It ends the capture of its own thread."""
        if self._capturing is not None and self._capturer == threading.get_ident():
            self._spoilt = True
        self._freed.append(self._memory.pop(address))
        while len(self._freed) > 1 and sum(array.nbytes for array in self._freed) > _KEPT_FREED:
            self._freed.popleft()

    def allocate_host(self, size_bytes: int) -> Bytes:
        """See `Cuda`."""
        return self._memory[self.allocate(size_bytes)]

    def free_host(self, address: int) -> None:
        """See `Cuda`."""
        self.free(address)

    def create_stream(self) -> int:
        """See `Cuda`."""
        self.check()
        self._next += 1
        self._queues[self._next] = []
        return self._next

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda`."""
        del self._queues[stream]

    def handle(self, stream: int) -> int:
        """See `Cuda`."""
        return stream

    def enqueue(self, stream: int, work: Work) -> None:
        """Let `work` happen when its turn comes; this is how an engine double executes.

        With `chance`, any stream may get on at once, as streams of a GPU do.
        """
        self.check()
        if stream in self._captured:
            self._captured[stream] += 1
            self._graph.append(work)
            return
        self._queues[stream].append(work)
        if self.chance is not None and self._capturing is None:
            for other in self._queues:
                while self._queues[other] and self.chance.random() < 0.5:
                    self._queues[other].pop(0)()

    def copy_in(self, device: int, host: npt.NDArray[Any], stream: int) -> None:
        """See `Cuda`."""
        self._check_contiguous(host)
        self.counts["copy_in"] += 1
        self.enqueue(stream, lambda: self._move(device, host.ctypes.data, host.nbytes))

    def copy_out(self, host: npt.NDArray[Any], device: int, stream: int) -> None:
        """See `Cuda`."""
        self._check_contiguous(host)
        self.counts["copy_out"] += 1
        self.enqueue(stream, lambda: self._move(host.ctypes.data, device, host.nbytes))

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """See `Cuda`."""
        self.counts["copy_on_device"] += 1
        self.enqueue(stream, lambda: self._move(target, source, size_bytes))

    def synchronize(self, stream: int) -> None:
        """See `Cuda`. Refused during a capture, as CUDA does."""
        self.check()
        if stream in self._captured:
            raise EnvironmentFault("CUDA: host memory: a stream can't be waited for while it is captured")
        self.counts["synchronize"] += 1
        self._finish(stream)

    def synchronize_device(self) -> None:
        """See `Cuda`. Refused during a capture, as CUDA does."""
        self.check()
        if self._capturing is not None:
            raise EnvironmentFault("CUDA: host memory: a device can't be waited for while a stream is captured")
        self.counts["synchronize_device"] += 1
        for stream in self._queues:
            self._finish(stream)

    def create_event(self) -> "EventDouble":
        """See `Cuda`."""
        self.check()
        return EventDouble()

    def record(self, event: "EventDouble", stream: int) -> None:
        """See `Cuda`."""
        event.stream, event.at = stream, None
        event.graph = self._graph if stream in self._captured else None
        if event.graph is not None:
            event.behind = self._captured[stream]
            return
        event.recorded += 1
        self.enqueue(stream, partial(event.happen, event.recorded))

    def wait(self, stream: int, event: "EventDouble") -> None:
        """See `Cuda`. A stream that waits for an event of a capture is captured too, until the first one waits for it.

        The graph has the work of all in the order of the calls, which is one that the events permit.
        """
        recorded = event.recorded
        self.counts["wait"] += 1
        if event.graph is not None and event.graph is self._graph:
            self._captured.setdefault(stream, 0)
            if stream == self._capturing:
                self._joined[event.stream] = event.behind
            return
        if event.graph is not None or stream in self._captured:
            raise EnvironmentFault("CUDA: host memory: a dependency between a graph that is captured and other work")
        self.enqueue(stream, lambda: self._run_until(event, recorded))

    def wait_of(self, handle: int, event: "EventDouble") -> None:
        """See `Cuda`."""
        self.wait(handle, event)

    def finish(self, event: "EventDouble") -> None:
        """See `Cuda`."""
        self.check()
        self.counts["finish"] += 1
        self._run_until(event, event.recorded)

    def elapsed_ms(self, start: "EventDouble", end: "EventDouble") -> float:
        """See `Cuda`."""
        self.check()
        for event in (start, end):
            self._run_until(event, event.recorded)
        assert start.at is not None
        assert end.at is not None
        return (end.at - start.at) * 1000

    def destroy_event(self, event: "EventDouble") -> None:
        """See `Cuda`."""

    def capture(self, stream: int, work: Callable[[], object]) -> list[Work]:
        """See `Cuda`."""
        self.check()
        self.counts["capture"] += 1
        self._capturing, self._capturer, self._spoilt = stream, threading.get_ident(), False
        self._captured, self._joined, self._graph = {stream: 0}, {}, []
        try:
            work()
            if self._spoilt:
                raise EnvironmentFault("CUDA: host memory: memory was freed while a graph was captured")
            if any(self._joined.get(other, -1) < done for other, done in self._captured.items() if other != stream):
                raise EnvironmentFault("CUDA: host memory: a stream that joined the capture was not waited for")
            return self._graph
        finally:
            self._capturing = None
            self._captured, self._graph = {}, []

    def launch(self, graph: list[Work], stream: int) -> None:
        """See `Cuda`."""
        self.check()
        self.counts["launch"] += 1
        self._queues[stream].extend(graph)

    def destroy_graph(self, graph: list[Work]) -> None:
        """See `Cuda`."""
        self.counts["destroy_graph"] += 1
        graph.clear()

    def _move(self, target: int, source: int, size_bytes: int) -> None:
        for address in (target, source):
            self.require_alive(address, size_bytes)
        ctypes.memmove(target, source, size_bytes)

    def _finish(self, stream: int) -> None:
        queue = self._queues[stream]
        while queue:
            queue.pop(0)()

    def _run_until(self, event: "EventDouble", recorded: int) -> None:
        """Run the event's stream, and no further: what another stream need not wait for, happens as late as it can."""
        while event.happened < recorded:
            self._queues[event.stream].pop(0)()

    @staticmethod
    def _check_contiguous(host: npt.NDArray[Any]) -> None:
        if not host.flags.c_contiguous:
            raise EnvironmentFault("CUDA: host memory: a copy needs a contiguous array")


class EventDouble:
    """What was recorded last, in which stream, and when it happened."""

    def __init__(self) -> None:
        self.stream = self.recorded = self.happened = 0
        self.graph: list[Work] | None = None  # of a capture, and how much of its stream is before it
        self.behind = 0
        self.at: float | None = None

    def happen(self, recorded: int) -> None:
        self.happened, self.at = recorded, time.perf_counter()
