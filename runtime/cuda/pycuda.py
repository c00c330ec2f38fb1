"""The protocol on pycuda: without graphs, in the device's primary context, never in one of its own."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import DeviceLost, EnvironmentFault, UsageError
from resnetrt.forks import PROCESS
from resnetrt.runtime.cuda.cuda_bindings import DLPACK_CUDA
from resnetrt.runtime.cuda.faults import fault, out_of_memory
from resnetrt.runtime.cuda.protocol import Bytes
from resnetrt.runtime.cuda.scope import Scope

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; without it a stream waits for the default stream, and that for it


def open_device(device: int) -> "PyCuda":
    """The device of that number; raises `ImportError` if pycuda is not here or does not fit the driver."""
    return PyCuda(importlib.import_module("pycuda.driver"), device)


class PyCuda:
    """See `resnetrt.runtime.cuda.protocol.Cuda`.

    The context is current only while a call lasts, or a block of `current`: pycuda aborts the process at its end if one
    is still pushed. Streams, events and allocations are held here under numbers, and let go of in the context, as
    pycuda frees them with their last reference, and refuses that in another thread's context.
    """

    name = "pycuda"
    supports_graphs = False
    lost = ""

    def __init__(self, driver: Any, device: int) -> None:
        self._driver = driver
        self._forks = PROCESS.forks
        self.dlpack_device = (DLPACK_CUDA, device)
        driver.init()
        # pycuda.autoinit would make a second context, whose memory TensorRT and torch can't see
        self._context = driver.Device(device).retain_primary_context()
        self._scope = Scope(self._context.push, driver.Context.pop)
        self._held: dict[int, Any] = {}

    def current(self) -> Scope:
        """See `Cuda`."""
        return self._scope

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda`."""
        allocation = self._allocate("device", size_bytes, self._driver.mem_alloc)
        self._held[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See `Cuda`."""
        self._drop(address)

    def allocate_host(self, size_bytes: int) -> Bytes:
        """See `Cuda`."""
        array: Bytes = self._allocate("pinned host", size_bytes, self._driver.pagelocked_empty, np.uint8)
        self._held[array.ctypes.data] = array
        return array

    def free_host(self, address: int) -> None:
        """See `Cuda`."""
        self._drop(address)

    def create_stream(self) -> int:
        """See `Cuda`."""
        stream = self._do(self._driver.Stream, _NON_BLOCKING)
        self._held[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda`."""
        self._drop(stream)

    def handle(self, stream: int) -> int:
        """See `Cuda`."""
        return stream

    def copy_in(self, device: int, host: npt.NDArray[Any], stream: int) -> None:
        """See `Cuda`."""
        self._do(self._driver.memcpy_htod_async, device, host, self._held[stream])

    def copy_out(self, host: npt.NDArray[Any], device: int, stream: int) -> None:
        """See `Cuda`."""
        self._do(self._driver.memcpy_dtoh_async, host, device, self._held[stream])

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """See `Cuda`."""
        self._do(self._driver.memcpy_dtod_async, target, source, size_bytes, self._held[stream])

    def synchronize(self, stream: int) -> None:
        """See `Cuda`."""
        self._do(self._held[stream].synchronize)

    def synchronize_device(self) -> None:
        """See `Cuda`."""
        self._do(self._driver.Context.synchronize)

    def create_event(self) -> int:
        """See `Cuda`."""
        event = self._do(self._driver.Event)
        self._held[id(event)] = event
        return id(event)

    def record(self, event: int, stream: int) -> None:
        """See `Cuda`."""
        self._do(self._held[event].record, self._held[stream])

    def wait(self, stream: int, event: int) -> None:
        """See `Cuda`."""
        self._do(self._held[stream].wait_for_event, self._held[event])

    def wait_of(self, handle: int, event: int) -> None:
        """See `Cuda`."""
        raise UsageError("CUDA: pycuda takes no stream that it did not make; leave it out, or use cuda-bindings")

    def finish(self, event: int) -> None:
        """See `Cuda`."""
        self._do(self._held[event].synchronize)

    def elapsed_ms(self, start: int, end: int) -> float:
        """See `Cuda`."""
        self._do(self._held[end].synchronize)
        return float(self._do(self._held[start].time_till, self._held[end]))

    def destroy_event(self, event: int) -> None:
        """See `Cuda`."""
        self._drop(event)

    def capture(self, stream: int, work: Callable[[], object]) -> Any:
        """Never called: `supports_graphs` is false."""
        raise EnvironmentFault("CUDA: pycuda has no graphs; install cuda-bindings")

    def launch(self, graph: Any, stream: int) -> None:
        """Never called: `supports_graphs` is false."""
        raise EnvironmentFault("CUDA: pycuda has no graphs; install cuda-bindings")

    def destroy_graph(self, graph: Any) -> None:
        """Never called: `supports_graphs` is false."""

    def check(self) -> None:
        """See `Cuda`."""
        self._do(self._driver.mem_get_info)

    def _allocate(self, kind: str, size_bytes: int, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._scope:
            try:
                return function(size_bytes, *arguments)
            except self._driver.MemoryError as error:
                known = self._driver.mem_get_info() if kind == "device" else ()
                raise out_of_memory(kind, size_bytes, *known) from error
            except self._driver.Error as error:
                raise self._fault(error) from error

    def _drop(self, key: int) -> None:
        """Let go of what pycuda frees then; it only prints what goes wrong."""
        if self._forks == PROCESS.forks:
            with self._scope:
                self._held.pop(key)

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._scope:
            try:
                return function(*arguments)
            except self._driver.Error as error:
                raise self._fault(error) from error

    def _fault(self, error: Exception) -> EnvironmentFault:
        ours = fault(f"CUDA: pycuda: {error}")
        if isinstance(ours, DeviceLost):
            self.lost = str(ours)
        return ours
