"""TensorRT and TensorRT-RTX: device buffers, pinned memory, one stream, one CUDA graph for each size of batch."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.runtime.backends.tensorrt_inspector import data_type, inspected_layers
from resnetrt.runtime.backends.tensorrt_kernels import KernelFile
from resnetrt.runtime.backends.tensorrt_library import (
    check_fits,
    deserialize,
    import_library,
    require_device,
    warn_of_another_gpu,
)
from resnetrt.runtime.backends.tensorrt_logger import Recorder, logger_of
from resnetrt.runtime.backends.tensorrt_runner import Runner
from resnetrt.runtime.cuda import Cuda, open_cuda
from resnetrt.runtime.cuda.dlpack import DLPACK_CPU, Borrowed, DeviceTensor, borrow
from resnetrt.runtime.cuda.pipeline import Lane
from resnetrt.runtime.session import Array, LayerTime, Outputs, Session, one_at_a_time
from resnetrt.settings import read_settings
from resnetrt.tensor_spec import TensorSpec

_WARM_UP = 2


def load(engine_path: Path, record: EngineRecord, threads: int, device: str | None = None) -> "TensorRtSession":
    """Load an engine; see `resnetrt.runtime.backends.Backend`.

    Device, compute capability, library and version are checked before the library sees the file.
    """
    what = f"engine {record.id}"
    chosen = require_device(what, device)
    check_fits(record, chosen)
    trt = import_library(record)
    cuda = open_cuda(read_settings().cuda, chosen.index)
    warn_of_another_gpu(record, chosen)
    with cuda.current():
        blob = engine_path.read_bytes()
        engine, runtime = deserialize(trt, blob, what, record)
        rtx = record.backend == "tensorrt_rtx"
        kept = KernelFile.of(blob, str(trt.__version__), chosen.name) if rtx else None
        return TensorRtSession(record, engine, cuda, threads, trt, runtime, kept)


class TensorRtSession(Session):
    """An engine in TensorRT, on one device, to be used by one thread at a time. Outputs are new arrays.

    A batch is copied once to pinned memory and from there to the device; fill an array of `staging` to save the first
    copy, or use `infer_dlpack` for what is on the device already. A batch runs at the next of a few sizes: powers of
    two and the numbers of the engine's profiles. `graphs` says how many of them have a captured CUDA graph.
    """

    on_device = True

    def __init__(
        self,
        record: EngineRecord,
        engine: Any,
        cuda: Cuda,
        threads: int,
        trt: Any = None,
        runtime: Any = None,
        kept: KernelFile | None = None,
    ) -> None:
        self._trt, self._runtime, self._engine, self._kept = trt, runtime, engine, kept
        logger = Recorder() if trt is None else logger_of(trt)
        self._runner = Runner(engine, cuda, f"engine {record.id}", logger, trt=trt, kept=kept)
        super().__init__(record, self._runner.inputs, self._runner.outputs, threads)
        self.batch_limits = self._runner.batch_limits
        self._host_only = cuda.dlpack_device[0] == DLPACK_CPU
        self._cuda = cuda

    @property
    def graphs(self) -> int:
        """Sizes of batches with a captured CUDA graph."""
        return sum(slot.graph is not None for slot in self._runner.slots.values())

    @property
    def lost(self) -> str:
        """See `Session`."""
        return self._cuda.lost

    @one_at_a_time
    def staging(self, count: int) -> Array:
        """A new array in pinned memory for `count` images, with any content: allocate it once and fill it often.

        It is the caller's, also after `close`: nothing else ever writes to it. `infer` makes no host copy of it, nor of
        a contiguous slice. Raises `UsageError` for a batch that the engine does not take.
        """
        return self._runner.staging(count)

    def infer_batches(self, batches: Iterable[Array]) -> Iterator[Outputs]:
        """See `Session`. Two batches are under way; the memory for that is allocated at the first call."""
        started = None
        for batch in batches:
            following = self._start(batch)
            if started is not None:
                yield self._finish(*started)
            started = following
        if started is not None:
            yield self._finish(*started)

    def sibling(self) -> "TensorRtSession":
        """See `Session`. It has contexts, buffers and a stream of its own."""
        with self._cuda.current():
            own = self._engine, self._cuda, self.threads, self._trt, self._runtime, self._kept
            return TensorRtSession(self.record, *own)

    @one_at_a_time
    def upload(self, batch: Array) -> DeviceTensor:
        """A copy of a batch in device memory of its own, for `infer_dlpack`. Raises `UsageError` as `infer`."""
        if not self._takes(batch):
            self._refuse(batch)
        return self._runner.upload(batch)

    @one_at_a_time
    def infer_dlpack(
        self, tensor: Any, outputs: Mapping[str, Any] | None = None, stream: int | None = None
    ) -> dict[str, Any]:
        """Run a batch that lies in device memory; the outputs stay there. No host copy.

        `tensor` has `__dlpack__` (torch, cupy), is contiguous and is as `inputs[0]`; it is only read. Take an output
        with `torch.from_dlpack`: it is complete, and nobody overwrites it. Once nothing refers to it, its memory serves
        another call, which first waits for all streams of the device, as one may still read it.

        `outputs` are tensors of the caller's by output name, which are filled and given back; for the others there is a
        `DeviceTensor`. With all of them the handle of a CUDA `stream` may be given: nothing is waited for then, and
        they are complete behind what that stream holds when this returns; until then nothing may overwrite `tensor`.
        Raises `UsageError` for another dtype, shape or device, and for an unknown output.
        """
        borrowed = self._borrow(tensor, self.inputs[0], None)
        specs = {spec.name: spec for spec in self.outputs}
        targets = {}
        for name, target in (outputs or {}).items():
            if name not in specs:
                raise UsageError.unknown(f"output of engine {self.record.id}", name, specs)
            targets[name] = self._borrow(target, specs[name], borrowed.shape[0])
        if stream is not None and targets.keys() != specs.keys():
            raise UsageError(
                f"engine {self.record.id}: with a stream of the caller's expected tensors for {', '.join(specs)}, "
                f"found {', '.join(targets) or 'none'}"
            )
        return {**self._runner.run_borrowed(borrowed, targets, stream), **(outputs or {})}

    def _borrow(self, tensor: Any, spec: TensorSpec, count: int | None) -> Borrowed:
        """The tensor's memory, ready for use; `UsageError` unless it is as `spec`, for `count` images or any number."""
        stream = None if self._host_only else self._cuda.handle(self._runner.stream)
        borrowed = borrow(tensor, stream)
        axes = tuple(axis or 1 for axis in spec.shape[1:])
        form = (borrowed.dtype, borrowed.shape[1:], borrowed.device)
        if (
            form != (np.dtype(spec.dtype).name, axes, self._cuda.dlpack_device)
            or not borrowed.shape[0]
            or count not in (None, borrowed.shape[0])
        ):
            images = "" if count is None else f" for {count} images"
            raise UsageError(
                f"engine {self.record.id}: expected {spec}{images} on DLPack device {self._cuda.dlpack_device}, "
                f"found {borrowed.dtype} {borrowed.shape} on {borrowed.device}"
            )
        return borrowed

    @one_at_a_time
    def execution_ms(self, count: int, runs: int = 100) -> list[float]:
        """See `Session`: CUDA events around copies and execution."""
        return self._runner.execution_ms(count, runs)

    @one_at_a_time
    def _start(self, batch: Array) -> tuple[Lane, int]:
        if not self._takes(batch):
            self._refuse(batch)
        return self._runner.start(batch)

    @one_at_a_time
    def _finish(self, lane: Lane, count: int) -> Outputs:
        return self._runner.finish(lane, count)

    def _infer(self, batch: Array) -> Outputs:
        return self._runner.run(batch)

    def _profile(self, batch: Array, runs: int) -> list[LayerTime]:
        profiler = _make_profiler(self._trt)
        self._runner.profile(batch, runs, _WARM_UP, profiler)
        precisions = self._precisions(len(batch))
        return [
            LayerTime(name, "layer", sum(times) / len(times), precisions.get(name, "unknown"))
            for name, times in profiler.times.items()
        ]

    def _precisions(self, count: int) -> dict[str, str]:
        """Output type of each layer, from the inspector; empty unless the engine was built with detailed layers."""
        if self._trt is None:
            return {}
        layers = inspected_layers(self._trt, self._engine, self._runner.slot(count).context)
        return {layer["Name"]: data_type((layer.get("Outputs") or [{}])[0]) for layer in layers}

    def _close(self) -> None:
        with self._cuda.current():
            self._runner.close()
            self._engine = None
            self._runtime = None


def _make_profiler(trt: Any) -> Any:
    base: Any = trt.IProfiler if trt is not None else object

    class Profiler(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()
