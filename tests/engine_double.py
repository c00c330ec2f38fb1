"""A TensorRT engine in host memory, driven by ONNX Runtime: the surface of ICudaEngine and IExecutionContext."""

import ctypes
import enum
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.backends.tensorrt_kernels import KernelFile

VERSION = "10.9.0.34"  # of the library that `fake_tensorrt` gives
Strategy = enum.IntEnum("ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2})
_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8"}
_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


class LibraryDouble(ModuleType):
    """What the runtime uses of the module `tensorrt` itself."""

    ILogger = type("ILogger", (), {})
    IProfiler = type("IProfiler", (), {})
    ExecutionContextAllocationStrategy = Strategy
    LayerInformationFormat = SimpleNamespace(JSON=1)


class RtxLibraryDouble(LibraryDouble):
    """As above, of `tensorrt_rtx`."""

    DynamicShapesKernelSpecializationStrategy = enum.IntEnum("Specialization", {"LAZY": 0, "EAGER": 1, "NONE": 2})
    CudaGraphStrategy = enum.IntEnum("CudaGraphStrategy", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})


def open_double(
    bundle: Bundle,
    cuda: HostCuda,
    variant: str = "fp32",
    profiles: Sequence[tuple[int, int, int]] = ((1, 8, 16),),
    trt: Any = None,
    kept: KernelFile | None = None,
) -> TensorRtSession:
    """A TensorRT session whose engine is the double of a variant."""
    trt = LibraryDouble("tensorrt") if trt is None else trt
    precision = bundle.manifest.variants[variant].precision
    record = EngineRecord(f"tensorrt-{precision}-sm86", "tensorrt", precision, "sm86", variant=variant)
    kind = RtxEngineDouble if isinstance(trt, RtxLibraryDouble) else EngineDouble
    return TensorRtSession(record, kind(bundle.variant_file(variant), cuda, profiles), cuda, 1, trt, kept=kept)


def engine_of(session: TensorRtSession) -> "EngineDouble":
    """The double that the session runs."""
    engine = session._engine
    assert isinstance(engine, EngineDouble)
    return engine


class EngineDouble:
    """What the runner uses of an ICudaEngine. `profiles` are (min, opt, max) batches."""

    def __init__(self, path: Path, cuda: HostCuda, profiles: Sequence[tuple[int, int, int]] = ((1, 8, 16),)) -> None:
        self.session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.cuda = cuda
        self.profiles = list(profiles)
        self.contexts: list[ContextDouble] = []
        # calls that report failure as TensorRT does: by their return value, and by this text in the log, if any
        self.fail: dict[str, str] = {}
        self.logger: Any = None
        self.warn = ""  # logged by each call
        self.num_aux_streams = 0
        self._entered = threading.Lock()
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self._tensors = {node.name: node for node in (*inputs, *outputs)}
        self._modes = {node.name: "INPUT" for node in inputs} | {node.name: "OUTPUT" for node in outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name=self._modes[name])

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_TYPES[self._tensors[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else -1 for axis in self._tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        rest = self.get_tensor_shape(name)[1:]
        return [(batch, *rest) for batch in self.profiles[index]]

    def failed(self, call: str) -> bool:
        self.cuda.require_current(call)
        if self.warn:
            self.logger.log(2, self.warn)
        if self.fail.get(call):
            self.logger.log(1, self.fail[call])
        return call in self.fail

    @property
    def device_memory_size_v2(self) -> int:
        return 1000

    def create_execution_context(self, strategy: Strategy = Strategy.STATIC) -> "ContextDouble | None":
        """Engines are not thread-safe, but contexts of one engine are independent of each other."""
        assert self._entered.acquire(blocking=False), "two threads are in one engine"
        try:
            if self.failed("create_execution_context"):
                return None
            self.contexts.append(ContextDouble(self, strategy))
            return self.contexts[-1]
        finally:
            self._entered.release()

    @property
    def streamable_weights_size(self) -> int:
        return 0

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: '{"Layers": []}')


class RtxEngineDouble(EngineDouble):
    """An engine of TensorRT-RTX: kernels are compiled at the first run of a shape, unless a cache holds them.

    `compiled` are the shapes that were. By default they are compiled in the background, so that a graph which is
    captured meanwhile keeps the kernels that stood in for them: the double refuses the capture.
    """

    def __init__(self, path: Path, cuda: HostCuda, profiles: Sequence[tuple[int, int, int]] = ((1, 8, 16),)) -> None:
        super().__init__(path, cuda, profiles)
        self.compiled: list[tuple[int, ...]] = []
        self.streamable = 0

    @property
    def streamable_weights_size(self) -> int:
        return self.streamable

    def create_runtime_config(self) -> "RuntimeConfigDouble":
        self.cuda.require_current("create_runtime_config")
        return RuntimeConfigDouble()

    def create_execution_context(self, runtime_config: Any = None) -> "ContextDouble | None":
        assert isinstance(runtime_config, RuntimeConfigDouble)
        context = super().create_execution_context(runtime_config.strategy)
        if context is not None:
            context.config = runtime_config
        return context


class RuntimeConfigDouble:
    """IRuntimeConfig, with the names of TensorRT-RTX 1.7 and no others."""

    __slots__ = ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy", "kernels", "strategy")

    def __init__(self) -> None:
        self.strategy, self.kernels = Strategy.STATIC, None
        self.dynamic_shapes_kernel_specialization_strategy: Any = (
            RtxLibraryDouble.DynamicShapesKernelSpecializationStrategy.LAZY
        )
        self.cuda_graph_strategy: Any = RtxLibraryDouble.CudaGraphStrategy.DISABLED

    def set_execution_context_allocation_strategy(self, strategy: Strategy = Strategy.STATIC) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "RuntimeCacheDouble":
        return RuntimeCacheDouble()

    def set_runtime_cache(self, cache: "RuntimeCacheDouble") -> bool:
        self.kernels = cache
        return True


class RuntimeCacheDouble:
    """IRuntimeCache: it takes what this version on this GPU stored, and nothing else."""

    HEADER = b"RTX 1.7.1 on sm86:"

    def __init__(self) -> None:
        self.shapes: set[str] = set()

    def serialize(self) -> bytes:
        return self.HEADER + ",".join(sorted(self.shapes)).encode()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self.HEADER):
            return False
        self.shapes = set(blob.removeprefix(self.HEADER).decode().split(","))
        return True


class ContextDouble:
    """What the runner uses of an IExecutionContext. It computes when its stream gets to it."""

    def __init__(self, engine: EngineDouble, strategy: Strategy) -> None:
        self.engine = engine
        self.memory: tuple[int, int] | None = None if strategy is Strategy.USER_MANAGED else (0, 0)
        self.profile = 0
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.profiler: Any = None
        self.enqueue_emits_profile = False
        self.runs = 0
        self.warm = False
        self.config: RuntimeConfigDouble | None = None  # of TensorRT-RTX
        self.aux = [engine.cuda.create_stream() for _ in range(engine.num_aux_streams)]

    def set_device_memory(self, memory: int, size: int) -> None:
        """It reports what is wrong to the logger alone."""
        self.engine.cuda.require_current("set_device_memory")
        if memory % 256 or size < self.engine.device_memory_size_v2:
            self.engine.logger.log(1, f"setDeviceMemoryV2: {size} bytes at {memory:x} are too few or not aligned")
        else:
            self.memory = memory, size

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        self.engine.cuda.enqueue(stream, lambda: None)
        return not self.engine.failed("set_optimization_profile_async")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profiles[self.profile]
        fixed = self.engine.get_tensor_shape(name)
        self.shape = shape
        fits = low <= shape[0] <= high if fixed[0] < 0 else shape[0] == fixed[0]
        return fits and shape[1:] == fixed[1:] and not self.engine.failed("set_input_shape")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0 and not self.engine.failed("set_tensor_address")

    def infer_shapes(self) -> list[str]:
        return ["input"] if self.engine.failed("infer_shapes") or not self.shape else []

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.failed("execute_async_v3") or self.memory is None:
            return False
        if self.engine.cuda.is_captured(stream) and not self.warm:
            raise EnvironmentFault("the first run of a context allocates, which a capture does not permit")
        self.warm = True
        if self.config is not None:
            self._compile_kernels(self.config, self.engine.cuda.is_captured(stream))
        work = partial(self._compute, dict(self.addresses), self.shape, self.memory)
        self._fork(stream, work)
        return True

    def _fork(self, stream: int, work: Callable[[], None]) -> None:
        """Run on auxiliary streams: they wait for the main one, which then waits for them (`setAuxStreams`)."""
        cuda = self.engine.cuda
        if not self.aux:
            cuda.enqueue(stream, work)
            return
        begin = cuda.create_event()
        cuda.record(begin, stream)
        for aux in self.aux:
            cuda.wait(aux, begin)
        cuda.enqueue(self.aux[-1], work)
        for aux in self.aux:
            end = cuda.create_event()
            cuda.record(end, aux)
            cuda.wait(stream, end)

    def _compile_kernels(self, config: RuntimeConfigDouble, captured: bool) -> None:
        lazy = config.dynamic_shapes_kernel_specialization_strategy.name == "LAZY"
        assert not (captured and lazy), "the graph keeps the kernels that stand in for those that are being compiled"
        assert not (captured and config.cuda_graph_strategy.name != "DISABLED"), "a capture within a capture"
        engine, kernels = self.engine, config.kernels
        assert isinstance(engine, RtxEngineDouble)
        shape = "x".join(map(str, self.shape))
        if kernels is None or shape not in kernels.shapes:
            engine.compiled.append(self.shape)
        if kernels is not None:
            kernels.shapes.add(shape)

    def _compute(self, addresses: dict[str, int], shape: tuple[int, ...], memory: tuple[int, int]) -> None:
        """Reads and writes whole batches of `shape`, and its block, all of which must be there."""
        self.runs += 1
        if memory[1]:
            ctypes.memset(self.engine.cuda.require_room(*memory), self.runs % 256, memory[1])
        session = self.engine.session
        name = session.get_inputs()[0].name
        dtype = np.dtype(_DTYPES[self.engine.get_tensor_dtype(name).name])
        room = self.engine.cuda.require_room(addresses[name], int(np.prod(shape)) * dtype.itemsize)
        batch = _read(room, shape, dtype)
        for node, value in zip(session.get_outputs(), session.run(None, {name: batch}), strict=True):
            self.engine.cuda.require_room(addresses[node.name], value.nbytes)
            ctypes.memmove(addresses[node.name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        if self.profiler is not None and self.enqueue_emits_profile:
            self.profiler.report_layer_time("everything", 0.5)


def _read(address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape).copy()


def fake_tensorrt(path: Path, cuda: HostCuda, broken: Path | None = None) -> Any:
    """A module with TensorRT's surface whose engines are doubles of `path`, or of `broken` for the blob `broken`."""

    class Logger:
        ERROR = 1

    class Runtime:
        warns = ""
        loads = 0

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, blob: bytes) -> Any:
            Runtime.loads += 1
            cuda.require_current("deserialize_cuda_engine")
            if self.warns:
                self.logger.log(2, self.warns)
            if blob == b"broken" and broken is not None:
                return EngineDouble(broken, cuda)
            if blob != b"engine":
                self.logger.log(1, "Serialization assertion plan.header.size == blobSize failed.")
                self.logger.log(1, "a second, misleading line")
                return None
            return EngineDouble(path, cuda)

    module = LibraryDouble("tensorrt")
    module.__dict__.update(__version__=VERSION, ILogger=Logger, Runtime=Runtime)
    return module
