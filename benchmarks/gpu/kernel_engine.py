"""An engine for the real runner where TensorRT is not: the surface of ICudaEngine over a few kernels.

It is as strict as TensorRT's documents: addresses are multiples of 256 bytes, shapes lie in the profile, all addresses
are set before a run.
"""

import enum
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from resnetrt.benchmarks.gpu.kernels import CLASSES, Kernels
from resnetrt.engine_record import EngineRecord
from resnetrt.preprocess import FloatArray
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.cuda import Cuda, DeviceBuffer

IMAGE = (3, 7, 7)  # 588 bytes, so that a slice of a batch is not aligned
_ALIGNMENT = 256


class Allocation(enum.Enum):
    """TensorRT's ExecutionContextAllocationStrategy: whose the memory is that a context computes in."""

    STATIC = 0
    USER_MANAGED = 2


class KernelEngine:
    """`layers` additions of one, then a product with fixed weights; `batches` are the profile's smallest and largest.

    Each run first keeps the stream busy for `delay_ms`. `on_run` is called whenever a run is enqueued, also while the
    runner captures its graph.
    """

    def __init__(
        self,
        kernels: Kernels,
        layers: int = 4,
        batches: tuple[int, int] = (1, 32),
        delay_ms: float = 0.0,
        on_run: Callable[[], object] | None = None,
    ) -> None:
        self.kernels, self.layers, self.batches, self.delay_ms, self.on_run = kernels, layers, batches, delay_ms, on_run
        self.num_io_tensors, self.num_optimization_profiles = 2, 1
        self.streamable_weights_size = 0

    def get_tensor_name(self, index: int) -> str:
        """The input, then the output."""
        return ("input", "logits")[index]

    def get_tensor_mode(self, name: str) -> Any:
        """As TensorRT's enumeration, which has a `name`."""
        return SimpleNamespace(name="INPUT" if name == "input" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        """As TensorRT's enumeration, which has a `name`."""
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """With -1 for the batch."""
        return (-1, *IMAGE) if name == "input" else (-1, CLASSES)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        """Smallest, tuned and largest shape of the input."""
        low, high = self.batches
        return [(batch, *IMAGE) for batch in (low, min(8, high), high)]

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes for what lies between layers, at the largest batch."""
        return 4 * self.batches[1] * int(np.prod(IMAGE))

    def create_execution_context(self, strategy: Any = None) -> "KernelContext":
        """A context with memory of its own for what lies between layers, unless the caller manages it."""
        return KernelContext(self, managed=strategy is Allocation.USER_MANAGED)


class KernelContext:
    """What the runner uses of an IExecutionContext."""

    def __init__(self, engine: KernelEngine, managed: bool) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._count = 0
        self._own = None if managed else DeviceBuffer(engine.kernels.cuda, engine.device_memory_size_v2)
        self._between = 0 if self._own is None else self._own.address

    def set_device_memory(self, address: int, size_bytes: int) -> None:
        """Memory of the caller, which lives as long as it is used. What does not fit is not taken."""
        if address % _ALIGNMENT == 0 and size_bytes >= self._engine.device_memory_size_v2:
            self._between = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """False for a shape outside the profile."""
        low, high = self._engine.batches
        self._count = shape[0]
        return low <= shape[0] <= high and tuple(shape[1:]) == IMAGE

    def set_tensor_address(self, name: str, address: int) -> bool:
        """False for an address that is not aligned."""
        self._addresses[name] = address
        return address % _ALIGNMENT == 0

    def infer_shapes(self) -> list[str]:
        """The tensors that are not ready."""
        return [] if self._count else ["input"]

    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue a run; False without all addresses, or without memory."""
        engine, kernels = self._engine, self._engine.kernels
        if self._addresses.keys() != {"input", "logits"} or not self._between:
            return False
        if engine.on_run is not None:
            engine.on_run()
        if engine.delay_ms:
            kernels.spin(engine.delay_ms, stream)
        values, source = int(np.prod(IMAGE)), self._addresses["input"]
        for _ in range(engine.layers):
            kernels.add_one(self._between, source, self._count * values, stream)
            source = self._between
        kernels.classify(self._addresses["logits"], source, self._count, values, stream)
        return True


library = ModuleType("kernels")
library.__dict__.update(
    ILogger=type("ILogger", (), {}), IProfiler=object, ExecutionContextAllocationStrategy=Allocation
)


def open_session(kernels: Kernels, cuda: Cuda | None = None, **options: Any) -> TensorRtSession:
    """The session that users get, over an engine with `options`; `cuda` replaces that of the kernels."""
    record = EngineRecord("kernels-fp32", "tensorrt", "fp32", "gpu")
    return TensorRtSession(record, KernelEngine(kernels, **options), cuda or kernels.cuda, 1, library)


def random_images(count: int, seed: int) -> FloatArray:
    """Small integers as float32 `(count, 3, 7, 7)`."""
    return np.random.default_rng(seed).integers(-8, 9, (count, *IMAGE)).astype(np.float32)


def expected_logits(images: FloatArray, layers: int = 4) -> FloatArray:
    """What an engine of `layers` gives, exactly."""
    values, classes = np.arange(int(np.prod(IMAGE))), np.arange(CLASSES)
    weights = (7 * values[:, None] + 3 * classes) % 5 - 2
    return ((images.reshape(len(images), -1).astype(np.int64) + layers) @ weights).astype(np.float32)
