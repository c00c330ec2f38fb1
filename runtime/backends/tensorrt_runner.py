"""Runs a deserialized TensorRT engine: fixed buffers, one context and one captured graph for each batch size."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from operator import not_
from typing import Any

import numpy as np

from resnetrt.errors import DeviceLost, EnvironmentFault, ResnetrtError, UsageError
from resnetrt.runtime.backends.tensorrt_logger import Recorder, first_error, warnings_of
from resnetrt.runtime.cuda.dlpack import Borrowed, DeviceTensor
from resnetrt.runtime.cuda.pool import BufferPool, Loan
from resnetrt.runtime.cuda.protocol import Cuda, DeviceBuffer, PinnedBuffer, is_pinned
from resnetrt.runtime.cuda.scope import on_device
from resnetrt.runtime.session import Array, Outputs
from resnetrt.tensor_spec import TensorSpec

_log = logging.getLogger("resnetrt.runtime")
_MOST_SLOTS = 8
_ALIGNMENT = 256  # NvInferRuntime.h, setTensorAddress: "The pointer must have at least 256-byte alignment"
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64"}


class Runner:
    """Executes batches on one stream; not for several threads at once.

    Memory is allocated here, once, for the largest batch, and never shown to a caller; a batch size that is new costs a
    context, a warm-up and a capture, and of the sizes used least recently all but eight are dropped. `what` begins
    error messages. `engine` is an `ICudaEngine` or a double of one, `logger` the one of its library.
    """

    def __init__(self, engine: Any, cuda: Cuda, what: str, logger: Recorder, graphs: bool = True) -> None:
        self._engine, self._cuda, self._what, self._logger = engine, cuda, what, logger
        self.inputs, self.outputs = _specs(engine)
        self._profiles = _profiles(engine, self.inputs)
        self.batch_limits = (min(low for low, _, _ in self._profiles), max(high for _, _, high in self._profiles))
        self._graphs = graphs and cuda.supports_graphs
        self.stream = cuda.create_stream()
        self._told: set[str] = set()
        self.slots: OrderedDict[int, _Slot] = OrderedDict()
        sizes = {spec.name: _size_bytes(spec, self.batch_limits[1]) for spec in (*self.inputs, *self.outputs)}
        self._device = {name: DeviceBuffer(cuda, size) for name, size in sizes.items()}
        self._pinned = {name: PinnedBuffer(cuda, size) for name, size in sizes.items()}
        self._lent = {spec.name: BufferPool(cuda, sizes[spec.name]) for spec in self.outputs}

    @on_device
    def run(self, batch: Array) -> Outputs:
        """Outputs of a batch; the arrays are new. One copy to the device and one back for each output.

        The batch is first copied to pinned memory, unless it is contiguous and in such memory already: `staging`'s.
        """
        slot = self.slot(len(batch))
        if not (is_pinned(batch) and batch.flags.c_contiguous):
            np.copyto(slot.staging, batch)
            batch = slot.staging
        slot.start(batch)
        self._cuda.synchronize(self.stream)
        return {name: view.copy() for name, view in slot.results.items()}

    def staging(self, count: int) -> Array:
        """New pinned memory for a batch of `count` images, with any content. Raises `UsageError` as `slot` does."""
        self._profile_for(count)
        spec = self.inputs[0]
        return _view(PinnedBuffer(self._cuda, _size_bytes(spec, count)), spec, count)

    @on_device
    def run_borrowed(self, tensor: Borrowed) -> dict[str, DeviceTensor]:
        """Outputs, complete and in device memory of their own, of a batch in device memory.

        Nothing is copied, but a batch whose address TensorRT does not take, on the device.
        """
        slot = self.slot(tensor.shape[0])
        loans = {spec.name: self._lent[spec.name].lend() for spec in self.outputs}
        if any(loan.again for loan in loans.values()):
            self._cuda.synchronize_device()
        addresses = {name: loan.buffer.address for name, loan in loans.items()}
        try:
            for name, address in ((self.inputs[0].name, self._aligned(tensor)), *addresses.items()):
                self._call(slot.context, "set_tensor_address", name, address)
            self._execute(slot.context)
            self._cuda.synchronize(self.stream)
        finally:
            for name, buffer in self._device.items():
                slot.context.set_tensor_address(name, buffer.address)
        return {spec.name: self._device_tensor(spec, tensor.shape[0], loans[spec.name]) for spec in self.outputs}

    def _aligned(self, tensor: Borrowed) -> int:
        """The tensor's address, or that of a copy if it is not aligned: slices of a batch often are not."""
        if tensor.address % _ALIGNMENT == 0:
            return tensor.address
        spec = self.inputs[0]
        own = self._device[spec.name].address
        self._cuda.copy_on_device(own, tensor.address, _size_bytes(spec, tensor.shape[0]), self.stream)
        return own

    @on_device
    def slot(self, count: int) -> "_Slot":
        """What is kept for batches of `count` images. Raises `UsageError` if no profile holds them."""
        slot = self.slots.get(count)
        if slot is None:
            slot = self.slots[count] = self._make_slot(count)
            if len(self.slots) > _MOST_SLOTS:
                self.slots.popitem(last=False)[1].drop()
        self.slots.move_to_end(count)
        return slot

    @on_device
    def profile(self, batch: Array, runs: int, warm_up: int, profiler: Any) -> None:
        """Run with `profiler` reporting every layer, in a context of its own, without a graph."""
        slot = self.slot(len(batch))
        np.copyto(slot.staging, batch)
        context = self._context(len(batch))
        self._cuda.copy_in(self._device[self.inputs[0].name].address, slot.staging, self.stream)
        for _ in range(warm_up):
            self._execute(context)
        self._cuda.synchronize(self.stream)
        context.profiler = profiler
        context.enqueue_emits_profile = True
        for _ in range(runs):
            self._execute(context)
            self._cuda.synchronize(self.stream)

    @on_device
    def execution_ms(self, count: int, runs: int) -> list[float]:
        """Milliseconds on the device of each of `runs`, copies included, by CUDA events, after the warm-up."""
        slot, cuda = self.slot(count), self._cuda
        start, end = cuda.create_event(), cuda.create_event()
        times = []
        for _ in range(runs):
            cuda.record(start, self.stream)
            slot.start(slot.staging)
            cuda.record(end, self.stream)
            times.append(cuda.elapsed_ms(start, end))
        cuda.destroy_event(start)
        cuda.destroy_event(end)
        return times

    @on_device
    def close(self) -> None:
        """Free everything; device memory that a consumer of an output holds stays until it is done."""
        with suppress(DeviceLost):  # then nothing runs any more
            self._cuda.synchronize(self.stream)
        for slot in self.slots.values():
            slot.drop()
        self.slots.clear()
        self._device.clear()
        self._pinned.clear()
        for pool in self._lent.values():
            pool.keep(0)
        self._lent.clear()
        self._cuda.destroy_stream(self.stream)
        self._engine = None

    def _make_slot(self, count: int) -> "_Slot":
        context = self._context(count)
        name = self.inputs[0].name
        staging = _view(self._pinned[name], self.inputs[0], count)
        results = {spec.name: _view(self._pinned[spec.name], spec, count) for spec in self.outputs}

        def copy_in(batch: Array) -> None:
            self._cuda.copy_in(self._device[name].address, batch, self.stream)

        def enqueue() -> None:
            self._execute(context)
            for output, view in results.items():
                self._cuda.copy_out(view, self._device[output].address, self.stream)

        staging[...] = 0
        copy_in(staging)
        enqueue()  # a first run loads and compiles kernels, which must not happen during the capture
        self._cuda.synchronize(self.stream)
        graph = self._capture(context, enqueue)
        return _Slot(self._cuda, self.stream, context, staging, results, copy_in, enqueue, graph)

    def _capture(self, context: Any, enqueue: Callable[[], None]) -> Any:
        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX alone has it
        if not self._graphs or (capturable is not None and not capturable(self._cuda.handle(self.stream))):
            return None
        try:
            return self._cuda.capture(self.stream, enqueue)
        except ResnetrtError as error:
            _log.warning("%s: no CUDA graph, every run is enqueued layer by layer: %s", self._what, error)
            self._graphs = False
            return None

    def _context(self, count: int) -> Any:
        profile = self._profile_for(count)
        context = self._call(self._engine, "create_execution_context")
        if profile:
            self._call(context, "set_optimization_profile_async", profile, self._cuda.handle(self.stream))
            self._cuda.synchronize(self.stream)
        spec = self.inputs[0]
        self._call(context, "set_input_shape", spec.name, (count, *spec.shape[1:]))
        for name, buffer in self._device.items():
            self._call(context, "set_tensor_address", name, buffer.address)
        self._call(context, "infer_shapes", failed=bool)  # it returns what is missing
        return context

    def _profile_for(self, count: int) -> int:
        """The profile tuned nearest to `count` images."""
        fitting = [i for i, (low, _, high) in enumerate(self._profiles) if low <= count <= high]
        if not fitting:
            ranges = ", ".join(f"{low} to {high}" if low < high else str(low) for low, _, high in self._profiles)
            raise UsageError(f"{self._what}: expected {ranges} images in a batch, found {count}; compile it for more")
        return min(fitting, key=lambda i: abs(self._profiles[i][1] - count))

    def _execute(self, context: Any) -> None:
        self._call(context, "execute_async_v3", self._cuda.handle(self.stream))

    def _call(self, target: Any, name: str, *arguments: Any, failed: Callable[[Any], bool] = not_) -> Any:
        """What TensorRT's method returns; raises `EnvironmentFault` with what it logged meanwhile if it `failed`."""
        with self._logger.recorded() as lines:
            result = getattr(target, name)(*arguments)
        if lines:
            self._pass_on(warnings_of(lines))
        if failed(result):
            self._cuda.check()  # an error that lost the device tells more than what TensorRT makes of it
            reason = first_error(lines) or "it does not say why"
            raise EnvironmentFault(f"{self._what}: TensorRT's {name} failed: {reason}")
        return result

    def _pass_on(self, warnings: list[str]) -> None:
        """Log what TensorRT warns of, each text once for this engine."""
        for text in warnings:
            if text not in self._told:
                self._told.add(text)
                _log.warning("%s: TensorRT warns: %s", self._what, text)

    def _device_tensor(self, spec: TensorSpec, count: int, loan: Loan) -> DeviceTensor:
        shape = (count, *(axis or 1 for axis in spec.shape[1:]))
        return DeviceTensor(loan.buffer.address, shape, np.dtype(spec.dtype), self._cuda.dlpack_device, loan)


class _Slot:
    """Context, views of the runner's own pinned buffers and graph for one batch size.

    The graph begins behind the copy in, whose source may be the caller's memory: an address that a graph must not keep.
    """

    def __init__(
        self,
        cuda: Cuda,
        stream: Any,
        context: Any,
        staging: Array,
        results: Outputs,
        copy_in: Callable[[Array], None],
        enqueue: Callable[[], None],
        graph: Any,
    ) -> None:
        self._cuda, self._stream, self._copy_in, self._enqueue = cuda, stream, copy_in, enqueue
        self.context, self.staging, self.results, self.graph = context, staging, results, graph

    def start(self, batch: Array) -> None:
        """Enqueue the copy in, the engine and the copy out."""
        self._copy_in(batch)
        if self.graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self.graph, self._stream)

    def drop(self) -> None:
        """Destroy the graph and let go of the context."""
        if self.graph is not None:
            self._cuda.destroy_graph(self.graph)
        self.graph = self.context = None


def _specs(engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    found: dict[str, list[TensorSpec]] = {"INPUT": [], "OUTPUT": []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(None if axis < 0 else int(axis) for axis in engine.get_tensor_shape(name))
        dtype = engine.get_tensor_dtype(name).name
        found[engine.get_tensor_mode(name).name].append(TensorSpec(name, _DTYPES.get(dtype, dtype), shape))
    return tuple(found["INPUT"]), tuple(found["OUTPUT"])


def _profiles(engine: Any, inputs: tuple[TensorSpec, ...]) -> list[tuple[int, int, int]]:
    """Smallest, tuned and largest batch of each profile."""
    fixed = inputs[0].shape[0]
    if fixed is not None:
        return [(fixed, fixed, fixed)]
    shapes = [engine.get_tensor_profile_shape(inputs[0].name, i) for i in range(engine.num_optimization_profiles)]
    return [(int(low[0]), int(best[0]), int(high[0])) for low, best, high in shapes]


def _size_bytes(spec: TensorSpec, count: int) -> int:
    return int(np.prod([count, *(axis or 1 for axis in spec.shape[1:])])) * np.dtype(spec.dtype).itemsize


def _view(buffer: PinnedBuffer, spec: TensorSpec, count: int) -> Array:
    return buffer.view((count, *(axis or 1 for axis in spec.shape[1:])), np.dtype(spec.dtype))
