"""Runs a deserialized TensorRT engine: fixed buffers, one context and one captured graph for each size of batch."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from resnetrt.errors import DeviceLost, ResnetrtError
from resnetrt.runtime.backends.tensorrt_calls import Calls
from resnetrt.runtime.backends.tensorrt_contexts import Contexts
from resnetrt.runtime.backends.tensorrt_inspector import engine_profiles, engine_specs
from resnetrt.runtime.backends.tensorrt_kernels import KernelFile
from resnetrt.runtime.backends.tensorrt_logger import Recorder
from resnetrt.runtime.backends.tensorrt_sizes import BatchSizes
from resnetrt.runtime.cuda.capture import capture
from resnetrt.runtime.cuda.dlpack import Borrowed, DeviceTensor
from resnetrt.runtime.cuda.pipeline import Lane, Pipeline
from resnetrt.runtime.cuda.pool import BufferPool, Loan
from resnetrt.runtime.cuda.protocol import Bytes, Cuda, DeviceBuffer, PinnedBuffer, is_pinned
from resnetrt.runtime.cuda.scope import on_device
from resnetrt.runtime.session import Array, Outputs
from resnetrt.tensor_spec import TensorSpec

_log = logging.getLogger("resnetrt.runtime")
_MOST_CAPTURES = 3  # attempts for a size: another library may have disturbed one of them


class Runner:
    """Executes batches on one stream; not for several threads at once.

    Memory is allocated here, once, for the largest batch, and never shown to a caller. A batch runs at the next of a
    few sizes (`BatchSizes`): the rows behind it hold what an earlier batch left there, and are dropped. A size that is
    new costs a context, a warm-up and a capture. `what` begins error messages. `engine` is an `ICudaEngine` or a double
    of one, `logger` the one of its library `trt`, `kept` where TensorRT-RTX's kernels are stored.
    """

    def __init__(
        self,
        engine: Any,
        cuda: Cuda,
        what: str,
        logger: Recorder,
        graphs: bool = True,
        trt: Any = None,
        kept: KernelFile | None = None,
    ) -> None:
        self._cuda, self._call = cuda, Calls(cuda, what, logger)
        self.inputs, self.outputs = engine_specs(engine)
        profiles = engine_profiles(engine, self.inputs[0])
        self._sizes = BatchSizes([(low[0], best[0], high[0]) for low, best, high in profiles])
        self.batch_limits = self._sizes.limits
        self._graphs = graphs and cuda.supports_graphs
        self._contexts = Contexts(trt, engine, cuda, kept)
        self.stream = cuda.create_stream()
        self.slots: dict[int, _Slot] = {}
        self._pipeline: Pipeline | None = None
        self._done: Any = None
        self._used: object = None
        most = self.batch_limits[1]
        sizes = {spec.name: _size_bytes(spec, most) for spec in (*self.inputs, *self.outputs)}
        self._device = {name: DeviceBuffer(cuda, size) for name, size in sizes.items()}
        self._staging = _view(PinnedBuffer(cuda, sizes[self.inputs[0].name]), self.inputs[0], most)
        self._results = {spec.name: _view(PinnedBuffer(cuda, sizes[spec.name]), spec, most) for spec in self.outputs}
        self._lent = {spec.name: BufferPool(cuda, sizes[spec.name]) for spec in self.outputs}

    @on_device
    def run(self, batch: Array) -> Outputs:
        """Outputs of a batch; the arrays are new. One copy to the device and one back for each output.

        The batch is first copied to pinned memory, unless it is contiguous and in such memory already: `staging`'s.
        """
        count = len(batch)
        slot = self.slot(count)
        if not (is_pinned(batch) and batch.flags.c_contiguous):
            np.copyto(self._staging[:count], batch)
            batch = self._staging[:count]
        with self._settled(self.stream):
            self._start(slot, batch)
        return {name: view[:count].copy() for name, view in self._results.items()}

    @on_device
    def start(self, batch: Array) -> tuple[Lane, int]:
        """Enqueue a batch, which is copied at once; `finish` must follow, after another `start` or not."""
        slot = self.slot(len(batch))
        if self._pipeline is None:
            results = {spec.name: self._device[spec.name] for spec in self.outputs}
            self._pipeline = Pipeline(self._cuda, self.stream, self._device[self.inputs[0].name], results)
        sizes = {spec.name: _size_bytes(spec, len(batch)) for spec in self.outputs}
        return self._pipeline.start(batch, sizes, lambda: self._execute(slot)), len(batch)

    @on_device
    def finish(self, lane: Lane, count: int) -> Outputs:
        """Outputs of a batch of `count` that `start` gave the `lane` of; the arrays are new."""
        assert self._pipeline is not None
        outputs = self._pipeline.finish(lane)
        return {spec.name: _shaped(outputs[spec.name], spec, count).copy() for spec in self.outputs}

    def staging(self, count: int) -> Array:
        """New pinned memory for a batch of `count` images, with any content. Raises `UsageError` as `slot` does."""
        self._sizes.find(count, self._call.what)
        spec = self.inputs[0]
        return _view(PinnedBuffer(self._cuda, _size_bytes(spec, count)), spec, count)

    @on_device
    def upload(self, batch: Array) -> DeviceTensor:
        """A copy of a batch in device memory of its own."""
        memory, own = DeviceBuffer(self._cuda, batch.nbytes), np.ascontiguousarray(batch)
        with self._settled(self.stream):
            self._cuda.copy_in(memory.address, own, self.stream)
        return DeviceTensor(memory.address, batch.shape, batch.dtype, self._cuda.dlpack_device, memory)

    @on_device
    def run_borrowed(
        self, tensor: Borrowed, targets: Mapping[str, Borrowed], stream: int | None = None
    ) -> dict[str, DeviceTensor]:
        """Outputs of a batch in device memory, in the `targets`, or returned in memory of their own.

        They are complete, or, with the `stream` of the caller, behind what that holds then; `targets` are all outputs.

        Both are copied on the device: a graph has fixed addresses, TensorRT wants them aligned, and reads whole sizes.
        """
        count, cuda = tensor.shape[0], self._cuda
        slot = self.slot(count)
        loans = {spec.name: self._lent[spec.name].lend() for spec in self.outputs if spec.name not in targets}
        if any(loan.again for loan in loans.values()):
            cuda.synchronize_device()
        image = self.inputs[0]
        with self._settled(self.stream if stream is None else None):
            own = self._device[image.name].address
            cuda.copy_on_device(own, tensor.address, _size_bytes(image, count), self.stream)
            self._execute(slot)
            for spec in self.outputs:
                name, own = spec.name, self._device[spec.name].address
                target = targets[name].address if name in targets else loans[name].buffer.address
                cuda.copy_on_device(target, own, _size_bytes(spec, count), self.stream)
            if stream is not None:
                self._used = (tensor, targets)  # lent until the next call, in case its package frees at once
                self._done = self._done or cuda.create_event()
                cuda.record(self._done, self.stream)
                cuda.wait_of(stream, self._done)
        lent = [spec for spec in self.outputs if spec.name in loans]
        return {spec.name: self._device_tensor(spec, count, loans[spec.name]) for spec in lent}

    @on_device
    def slot(self, count: int) -> "_Slot":
        """What is kept for batches of `count` images. Raises `UsageError` if no profile holds them."""
        size, profile = self._sizes.find(count, self._call.what)
        slot = self.slots.get(size)
        if slot is None:
            slot = _Slot(size, self._context(size, profile))
            self._enqueue(slot.context)  # TensorRT allocates at the first run, which a capture refuses
            self._cuda.synchronize(self.stream)
            self.slots[size] = slot
            self._contexts.keep_kernels()
        if slot.graph is None and slot.captures < _MOST_CAPTURES:
            self._capture(slot)
        return slot

    @on_device
    def profile(self, batch: Array, runs: int, warm_up: int, profiler: Any) -> None:
        """Run with `profiler` reporting every layer, in a context of its own, without a graph."""
        size, profile = self._sizes.find(len(batch), self._call.what)
        context, staging = self._context(size, profile), self._staging[: len(batch)]
        np.copyto(staging, batch)
        self._cuda.copy_in(self._device[self.inputs[0].name].address, staging, self.stream)
        for _ in range(warm_up):
            self._enqueue(context)
        self._cuda.synchronize(self.stream)
        context.profiler = profiler
        context.enqueue_emits_profile = True
        for _ in range(runs):
            self._enqueue(context)
            self._cuda.synchronize(self.stream)

    @on_device
    def execution_ms(self, count: int, runs: int) -> list[float]:
        """Milliseconds on the device of each of `runs`, copies included, by CUDA events, after the warm-up."""
        slot, cuda = self.slot(count), self._cuda
        start, end = cuda.create_event(), cuda.create_event()
        times = []
        for _ in range(runs):
            cuda.record(start, self.stream)
            self._start(slot, self._staging[:count])
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
            if slot.graph is not None:
                self._cuda.destroy_graph(slot.graph)
        self.slots.clear()
        self._used = None
        if self._done is not None:
            self._cuda.destroy_event(self._done)
            self._done = None
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._contexts.close()
        self._device.clear()
        self._results.clear()
        del self._staging
        for pool in self._lent.values():
            pool.keep(0)
        self._lent.clear()
        self._cuda.destroy_stream(self.stream)

    @contextmanager
    def _settled(self, stream: Any) -> Iterator[None]:
        """Wait for `stream` behind the block, if any; if that fails, in any case: copies may read what is freed."""
        try:
            yield
        except BaseException:
            with suppress(ResnetrtError):  # the first error is the one to tell
                self._cuda.synchronize(self.stream)
            raise
        if stream is not None:
            self._cuda.synchronize(stream)

    def _start(self, slot: "_Slot", batch: Array) -> None:
        """Enqueue the copy in, the engine and the copies out of as many rows as `batch` has.

        The copies are not in the graph: their host memory may be the caller's, an address that a graph must not keep.
        """
        self._cuda.copy_in(self._device[self.inputs[0].name].address, batch, self.stream)
        self._execute(slot)
        for name, view in self._results.items():
            self._cuda.copy_out(view[: len(batch)], self._device[name].address, self.stream)

    def _execute(self, slot: "_Slot") -> None:
        if slot.graph is None:
            self._enqueue(slot.context)
        else:
            self._cuda.launch(slot.graph, self.stream)

    def _enqueue(self, context: Any) -> None:
        self._call(context, "execute_async_v3", self._cuda.handle(self.stream))

    def _capture(self, slot: "_Slot") -> None:
        """Give the slot a graph, if it can have one; a failure is lived with, and may be another library's."""
        capturable = getattr(slot.context, "is_stream_capturable", None)  # TensorRT-RTX alone has it
        if not self._graphs or (capturable is not None and not capturable(self._cuda.handle(self.stream))):
            return
        slot.captures += 1
        try:
            slot.graph = capture(self._cuda, self.stream, lambda: self._enqueue(slot.context))
        except DeviceLost:
            raise
        except ResnetrtError as error:
            then = "it is tried again" if slot.captures < _MOST_CAPTURES else "every run is enqueued layer by layer"
            _log.warning("%s: no CUDA graph for %d images, %s: %s", self._call.what, slot.size, then, error)

    def _context(self, size: int, profile: int) -> Any:
        context = self._contexts.make(self._call)
        if profile:
            self._call(context, "set_optimization_profile_async", profile, self._cuda.handle(self.stream))
            self._cuda.synchronize(self.stream)
        spec = self.inputs[0]
        self._call(context, "set_input_shape", spec.name, (size, *spec.shape[1:]))
        for name, buffer in self._device.items():
            self._call(context, "set_tensor_address", name, buffer.address)
        self._call(context, "infer_shapes", failed=bool)  # it returns what is missing
        return context

    def _device_tensor(self, spec: TensorSpec, count: int, loan: Loan) -> DeviceTensor:
        shape = (count, *(axis or 1 for axis in spec.shape[1:]))
        return DeviceTensor(loan.buffer.address, shape, np.dtype(spec.dtype), self._cuda.dlpack_device, loan)


class _Slot:
    """Context and graph for one size of batch, and how often the graph was tried."""

    def __init__(self, size: int, context: Any) -> None:
        self.size, self.context = size, context
        self.graph: Any = None
        self.captures = 0


def _size_bytes(spec: TensorSpec, count: int) -> int:
    return int(np.prod([count, *(axis or 1 for axis in spec.shape[1:])])) * np.dtype(spec.dtype).itemsize


def _view(buffer: PinnedBuffer, spec: TensorSpec, count: int) -> Array:
    return _shaped(buffer.bytes, spec, count)


def _shaped(memory: Bytes, spec: TensorSpec, count: int) -> Array:
    """The beginning of the memory as `count` images' worth of the tensor."""
    values: Array = memory[: _size_bytes(spec, count)].view(np.dtype(spec.dtype))
    return values.reshape((count, *(axis or 1 for axis in spec.shape[1:])))
