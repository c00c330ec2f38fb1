"""Execution contexts of one engine for one stream: they share the block of device memory that they compute in.

A context that allocates for itself holds the activations of the largest profile; those of one stream never compute at
the same time, so one block does for all (`setDeviceMemoryV2` in NvInferRuntime.h; NVIDIA/TensorRT#2040).
"""

import threading
from typing import Any

from resnetrt.runtime.backends.tensorrt_calls import Calls
from resnetrt.runtime.cuda.protocol import Cuda, DeviceBuffer

# an engine may be shared by sessions of several threads, and its methods are for one thread at a time
_one_thread = threading.RLock()


class Contexts:
    """Makes contexts of `engine`, of the library `trt`; without one, contexts that allocate for themselves."""

    def __init__(self, trt: Any, engine: Any, cuda: Cuda) -> None:
        self._trt, self._engine, self._cuda = trt, engine, cuda
        self._block: DeviceBuffer | None = None

    def make(self, call: Calls) -> Any:
        """A new context, with memory to compute in. Raises `EnvironmentFault` with TensorRT's reason."""
        with _one_thread:
            if self._trt is None:
                return call(self._engine, "create_execution_context")
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = call(self._engine, "create_execution_context", strategy)
        block = self._shared()
        # graphs keep the address, so the block is as large as the largest profile needs and stays where it is
        call.tell(context, "set_device_memory", block.address, block.size_bytes)
        return context

    def close(self) -> None:
        """Free the memory; no context of it may run any more."""
        self._block = None
        self._engine = None

    def _shared(self) -> DeviceBuffer:
        if self._block is None:
            self._block = DeviceBuffer(self._cuda, int(self._engine.device_memory_size_v2))
        return self._block
