"""The protocol on pycuda: without graphs, in the device's primary context, never in one of its own."""

import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.cuda.cuda_bindings import DLPACK_CUDA
from resnetrt.runtime.cuda.protocol import Bytes


def open_device(device: int) -> "PyCuda":
    """The device of that number; raises `ImportError` if pycuda is not here or does not fit the driver."""
    return PyCuda(importlib.import_module("pycuda.driver"), device)


class PyCuda:
    """See `resnetrt.runtime.cuda.protocol.Cuda`. The context is made current in each thread that comes."""

    name = "pycuda"
    supports_graphs = False

    def __init__(self, driver: Any, device: int) -> None:
        self._driver = driver
        self.dlpack_device = (DLPACK_CUDA, device)
        driver.init()
        # pycuda.autoinit would make a second context, whose memory TensorRT and torch can't see
        self._context = driver.Device(device).retain_primary_context()
        self._thread = threading.local()
        self._held: dict[int, Any] = {}

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda`."""
        allocation = self._do(self._driver.mem_alloc, size_bytes)
        self._held[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See `Cuda`."""
        self._do(self._held.pop(address).free)

    def allocate_host(self, size_bytes: int) -> Bytes:
        """See `Cuda`."""
        array: Bytes = self._do(self._driver.pagelocked_empty, size_bytes, np.uint8)
        self._held[array.ctypes.data] = array
        return array

    def free_host(self, address: int) -> None:
        """See `Cuda`."""
        self._held.pop(address)  # pycuda frees it with its last reference

    def create_stream(self) -> Any:
        """See `Cuda`."""
        return self._do(self._driver.Stream)

    def destroy_stream(self, stream: Any) -> None:
        """See `Cuda`. pycuda destroys it with its last reference."""

    def handle(self, stream: Any) -> int:
        """See `Cuda`."""
        return int(stream.handle)

    def copy_in(self, device: int, host: npt.NDArray[Any], stream: Any) -> None:
        """See `Cuda`."""
        self._do(self._driver.memcpy_htod_async, device, host, stream)

    def copy_out(self, host: npt.NDArray[Any], device: int, stream: Any) -> None:
        """See `Cuda`."""
        self._do(self._driver.memcpy_dtoh_async, host, device, stream)

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Any) -> None:
        """See `Cuda`."""
        self._do(self._driver.memcpy_dtod_async, target, source, size_bytes, stream)

    def synchronize(self, stream: Any) -> None:
        """See `Cuda`."""
        self._do(stream.synchronize)

    def synchronize_device(self) -> None:
        """See `Cuda`."""
        self._do(self._driver.Context.synchronize)

    def create_event(self) -> Any:
        """See `Cuda`."""
        return self._do(self._driver.Event)

    def record(self, event: Any, stream: Any) -> None:
        """See `Cuda`."""
        self._do(event.record, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """See `Cuda`."""
        self._do(end.synchronize)
        return float(self._do(start.time_till, end))

    def destroy_event(self, event: Any) -> None:
        """See `Cuda`. pycuda destroys it with its last reference."""

    def capture(self, stream: Any, work: Callable[[], object]) -> Any:
        """Never called: `supports_graphs` is false."""
        raise EnvironmentFault("CUDA: pycuda has no graphs; install cuda-bindings")

    def launch(self, graph: Any, stream: Any) -> None:
        """Never called: `supports_graphs` is false."""
        raise EnvironmentFault("CUDA: pycuda has no graphs; install cuda-bindings")

    def destroy_graph(self, graph: Any) -> None:
        """Never called: `supports_graphs` is false."""

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not getattr(self._thread, "has_context", False):
            self._context.push()
            self._thread.has_context = True
        try:
            return function(*arguments)
        except self._driver.Error as error:
            raise EnvironmentFault(f"CUDA: pycuda: {error}") from error
