"""The protocol on NVIDIA's cuda-bindings: the CUDA runtime API, which shares the primary context with everyone."""

import ctypes
import importlib
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import DeviceLost
from resnetrt.forks import PROCESS
from resnetrt.runtime.cuda.faults import OUT_OF_MEMORY, fault, out_of_memory
from resnetrt.runtime.cuda.protocol import Bytes
from resnetrt.runtime.cuda.scope import Scope

DLPACK_CUDA = 2

# Waiting for the device while one of its streams is captured would invalidate the capture. A finalizer may wait for the
# device during a capture in its own thread: that capture becomes invalid, as with `cudaFree`, but nothing hangs.
_capturing = threading.RLock()


def open_device(device: int) -> "CudaBindings":
    """The device of that number; raises `ImportError` if the package is not here."""
    driver = importlib.import_module("cuda.bindings.driver")
    return CudaBindings(importlib.import_module("cuda.bindings.runtime"), driver, device)


class CudaBindings:
    """See `resnetrt.runtime.cuda.protocol.Cuda`.

    The device's primary context is pushed and popped with the driver API. `cudaSetDevice` can't be undone: asked for a
    thread's device before it, CUDA names device 0 also where there is none yet, and going back would start that one.
    """

    name = "cuda-bindings"
    supports_graphs = True
    lost = ""

    def __init__(self, runtime: Any, driver: Any, device: int) -> None:
        self._rt, self._driver = runtime, driver
        self._forks = PROCESS.forks
        self.dlpack_device = (DLPACK_CUDA, device)
        kinds = runtime.cudaMemcpyKind
        self._to_device, self._to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self._on_device = kinds.cudaMemcpyDeviceToDevice
        self._drive("cuInit", 0)
        context = self._drive("cuDevicePrimaryCtxRetain", self._drive("cuDeviceGet", device))
        self._scope = Scope(partial(self._drive, "cuCtxPushCurrent", context), partial(self._drive, "cuCtxPopCurrent"))

    def current(self) -> Scope:
        """See `Cuda`."""
        return self._scope

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda`."""
        return int(self._allocate("device", size_bytes, "cudaMalloc"))

    def free(self, address: int) -> None:
        """See `Cuda`."""
        self._release("cudaFree", address)

    def allocate_host(self, size_bytes: int) -> Bytes:
        """See `Cuda`."""
        address = int(self._allocate("pinned host", size_bytes, "cudaHostAlloc", self._rt.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def free_host(self, address: int) -> None:
        """See `Cuda`."""
        self._release("cudaFreeHost", address)

    def create_stream(self) -> Any:
        """See `Cuda`."""
        return self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        """See `Cuda`."""
        self._release("cudaStreamDestroy", stream)

    def handle(self, stream: Any) -> int:
        """See `Cuda`."""
        return int(stream)

    def copy_in(self, device: int, host: npt.NDArray[Any], stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, self._to_device, stream)

    def copy_out(self, host: npt.NDArray[Any], device: int, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, self._to_host, stream)

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaMemcpyAsync", target, source, size_bytes, self._on_device, stream)

    def synchronize(self, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaStreamSynchronize", stream)

    def synchronize_device(self) -> None:
        """See `Cuda`."""
        with _capturing:
            self._call("cudaDeviceSynchronize")

    def create_event(self) -> Any:
        """See `Cuda`."""
        return self._call("cudaEventCreate")

    def record(self, event: Any, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """See `Cuda`."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait_of(self, handle: int, event: Any) -> None:
        """See `Cuda`."""
        self._call("cudaStreamWaitEvent", handle, event, 0)

    def finish(self, event: Any) -> None:
        """See `Cuda`."""
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """See `Cuda`."""
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        """See `Cuda`."""
        self._release("cudaEventDestroy", event)

    def capture(self, stream: Any, work: Callable[[], object]) -> Any:
        """See `Cuda`. A failed capture is ended, so that the stream can be used on."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with _capturing, self._scope:
            self._call("cudaStreamBeginCapture", stream, mode)
            try:
                work()
            except BaseException:
                self._rt.cudaStreamEndCapture(stream)
                raise
            graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """See `Cuda`."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """See `Cuda`."""
        self._release("cudaGraphExecDestroy", graph)

    def check(self) -> None:
        """See `Cuda`."""
        self._call("cudaMemGetInfo")  # gives the error that lost the device, as every call does from then on

    def _allocate(self, kind: str, size_bytes: int, name: str, *arguments: Any) -> Any:
        with self._scope:
            status, *results = getattr(self._rt, name)(size_bytes, *arguments)
            if int(status) == OUT_OF_MEMORY:
                raise out_of_memory(kind, size_bytes, *(self._call("cudaMemGetInfo") if kind == "device" else ()))
            self._require(name, status, self._rt.cudaGetErrorString)
        return results[0]

    def _release(self, name: str, resource: Any) -> None:
        if not self.lost and self._forks == PROCESS.forks:
            with suppress(DeviceLost):
                self._call(name, resource)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._scope:
            status, *results = getattr(self._rt, name)(*arguments)
            self._require(name, status, self._rt.cudaGetErrorString)
        return results[0] if len(results) == 1 else results or None

    def _drive(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        self._require(name, status, self._driver.cuGetErrorString)
        return results[0] if results else None

    def _require(self, name: str, status: Any, words_of: Callable[[Any], tuple[Any, bytes | str]]) -> None:
        if int(status) == 0:
            return
        text = words_of(status)[1]
        words = text.decode() if isinstance(text, bytes) else text
        error = fault(f"CUDA: {name} failed: {status.name}: {words}", int(status))
        if isinstance(error, DeviceLost):
            self.lost = str(error)
        raise error
