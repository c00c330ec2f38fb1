"""Execution contexts of one engine for one stream: they share the block of device memory that they compute in.

A context that allocates for itself holds the activations of the largest profile; those of one stream never compute at
the same time, so one block does for all (`setDeviceMemoryV2` in NvInferRuntime.h; NVIDIA/TensorRT#2040).
"""

import threading
from typing import Any

from resnetrt.runtime.backends.tensorrt_calls import Calls
from resnetrt.runtime.backends.tensorrt_kernels import KernelFile
from resnetrt.runtime.cuda.protocol import Cuda, DeviceBuffer

# an engine may be shared by sessions of several threads, and its methods are for one thread at a time
_one_thread = threading.RLock()


class Contexts:
    """Makes contexts of `engine`, of the library `trt`; without one, contexts that allocate for themselves.

    TensorRT-RTX compiles kernels where the engine runs, by default in the background, with others until then: a graph
    that is captured meanwhile keeps those others. So its contexts compile at the first run, and `kept` is where the
    kernels are stored.
    """

    def __init__(self, trt: Any, engine: Any, cuda: Cuda, kept: KernelFile | None = None) -> None:
        self._trt, self._engine, self._cuda, self._kept = trt, engine, cuda, kept
        self._block: DeviceBuffer | None = None
        self._kernels: Any = None

    def make(self, call: Calls) -> Any:
        """A new context, with memory to compute in. Raises `EnvironmentFault` with TensorRT's reason."""
        with _one_thread:
            if self._trt is None:
                return call(self._engine, "create_execution_context")
            context = call(self._engine, "create_execution_context", self._strategy(call))
        if self._streams_weights():
            return context
        block = self._shared()
        # graphs keep the address, so the block is as large as the largest profile needs and stays where it is
        call.tell(context, "set_device_memory", block.address, block.size_bytes)
        return context

    def keep_kernels(self) -> None:
        """Store the kernels that were compiled since the last time, for the next process."""
        if self._kernels is not None and self._kept is not None:
            with _one_thread:
                self._kept.write(self._kernels)

    def close(self) -> None:
        """Free the memory; no context of it may run any more."""
        self._block = None
        self._engine = self._kernels = None

    def _strategy(self, call: Calls) -> Any:
        """What contexts are made with: whose the memory is, and for TensorRT-RTX when kernels are compiled."""
        whose = self._trt.ExecutionContextAllocationStrategy
        ours = whose.STATIC if self._streams_weights() else whose.USER_MANAGED
        if not self._is_rtx():
            return ours
        runtime_config = call(self._engine, "create_runtime_config")
        call.tell(runtime_config, "set_execution_context_allocation_strategy", ours)
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        runtime_config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED  # the runner captures
        if self._kernels is None:
            self._kernels = call(runtime_config, "create_runtime_cache")
            if self._kept is not None:
                self._kept.read_into(self._kernels)
        call(runtime_config, "set_runtime_cache", self._kernels)
        return runtime_config

    def _is_rtx(self) -> bool:
        return hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy")

    def _streams_weights(self) -> bool:
        """TensorRT-RTX allocates at run time for weights that are streamed, and then takes no memory of ours."""
        return self._is_rtx() and self._engine.streamable_weights_size > 0

    def _shared(self) -> DeviceBuffer:
        if self._block is None:
            self._block = DeviceBuffer(self._cuda, int(self._engine.device_memory_size_v2))
        return self._block
