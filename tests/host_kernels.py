"""The kernels of the GPU checks in host memory, and a host double with a thread-local view of captures."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from host_cuda import HostCuda

from resnetrt.benchmarks.gpu.kernels import CLASSES
from resnetrt.errors import EnvironmentFault

_CUDA = 2  # DLPack's kDLCUDA: only numbers here, no consumer ever reads such a tensor


class ThreadedHostCuda(HostCuda):
    """HostCuda for several threads, with the refusals that CUDA has for a capture of the thread's own.

    Each call waits while another thread's is under way, captures included. Freeing in a capture is refused, and the
    capture is invalid from then on, as documented for `cudaFree` in the mode thread-local.
    """

    dlpack_device = (_CUDA, 0)
    memory_bytes = 1 << 30

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self.dead = ""
        self._pid = os.getpid()
        self._spoiled = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value) or name in {"handle", "current", "forked"}:
            return value

        def call(*arguments: Any) -> Any:
            with self._lock:
                if os.getpid() != self._pid:
                    self.forked(name)
                if self.dead:
                    raise EnvironmentFault(f"CUDA: {name} failed: {self.dead}")
                return value(*arguments)

        return call

    def allocate(self, size_bytes: int) -> int:
        if self.used_bytes() + size_bytes > self.memory_bytes:
            raise EnvironmentFault("CUDA: cudaMalloc failed: cudaErrorMemoryAllocation: out of memory")
        return super().allocate(size_bytes)

    def free(self, address: int) -> None:
        if self._capturing is not None:
            self._spoiled = True
            raise EnvironmentFault("CUDA: cudaFree failed: cudaErrorStreamCaptureUnsupported")
        super().free(address)

    @staticmethod
    def forked(name: str) -> None:
        """What CUDA answers in a process that was forked from one that uses it."""
        raise EnvironmentFault(f"CUDA: {name} failed: cudaErrorInitializationError: initialization error")

    def used_bytes(self) -> int:
        return sum(array.size for array in self._memory.values())

    def capture(self, stream: int, work: Callable[[], object]) -> list[Any]:
        self._spoiled = False
        graph = super().capture(stream, work)
        if self._spoiled:
            raise EnvironmentFault("CUDA: cudaStreamEndCapture failed: cudaErrorStreamCaptureInvalidated")
        return graph

    def finish(self, stream: int) -> None:
        self._finish(stream)

    def _finish(self, stream: int) -> None:
        super()._finish(stream)
        if self.dead:
            raise EnvironmentFault(f"CUDA: cudaStreamSynchronize failed: {self.dead}")


class HostKernels:
    """See `resnetrt.benchmarks.gpu.kernels.Kernels`."""

    def __init__(self, cuda: ThreadedHostCuda | None = None) -> None:
        self.cuda = cuda or ThreadedHostCuda()

    def add_one(self, target: int, source: int, count: int, stream: int) -> None:
        def work() -> None:
            self._floats(target, count)[:] = self._floats(source, count) + 1

        self.cuda.enqueue(stream, work)

    def classify(self, logits: int, images: int, count: int, values: int, stream: int) -> None:
        def work() -> None:
            i, k = np.arange(values), np.arange(CLASSES)
            weights = ((i[:, None] * 7 + k * 3) % 5 - 2).astype(np.float32)
            result = self._floats(images, count * values).reshape(count, values) @ weights
            self._floats(logits, count * CLASSES)[:] = result.ravel()

        self.cuda.enqueue(stream, work)

    def spin(self, milliseconds: float, stream: int) -> None:
        """Nothing: work waits for `synchronize` anyway."""

    def write_nowhere(self, stream: int) -> None:
        def die() -> None:
            self.cuda.dead = "cudaErrorIllegalAddress: an illegal memory access was encountered"

        self.cuda.enqueue(stream, die)

    def let_wait(self, waiting: int, other: int) -> None:
        self.cuda.enqueue(waiting, lambda: self.cuda.finish(other))

    def free_bytes(self) -> int:
        return self.cuda.memory_bytes - self.cuda.used_bytes()

    def _floats(self, address: int, count: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        room = self.cuda.require_alive(address, 4 * count)
        return np.frombuffer((ctypes.c_float * count).from_address(room), np.float32)
