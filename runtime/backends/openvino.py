"""OpenVINO on the CPU: the engine file holds compiled models that OpenVINO exported, one after the other.

One takes any batch; the other a single image, for which OpenVINO plans memory and kernels before the first call.
"""

import os
import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, BundleError
from resnetrt.parts import import_part
from resnetrt.runtime.backends import compile_again
from resnetrt.runtime.session import Array, LayerTime, Outputs, Session, one_at_a_time
from resnetrt.tensor_spec import TensorSpec

# The type that float layers compute in, by the engine's precision. Left alone, OpenVINO would pick bf16 where the CPU
# has it, for FP32 models and for imported engines alike.
PRECISION_HINTS = {"fp32": "f32", "int8": "f32", "fp16": "f16", "bf16": "bf16"}
_CAPABILITIES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}
_PRECISIONS = {"f32": "fp32", "fp32": "fp32", "f16": "fp16", "fp16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_WARM_UP = 2
_making_the_core = threading.Lock()


def load(engine_path: Path, record: EngineRecord, threads: int, device: str | None = None) -> "OpenVinoSession":
    """Load an engine; see `resnetrt.runtime.backends.Backend`."""
    return OpenVinoSession(engine_path, record, threads)


class OpenVinoSession(Session):
    """An engine in OpenVINO. Outputs are new arrays.

    A contiguous, writable input is read in place and referred to until the next call or `close`.
    """

    def __init__(self, path: Path, record: EngineRecord, threads: int) -> None:
        self._blob: Array | None = _map(path, record)
        compiled = {batch: _import(part, record, threads) for batch, part in _parts(self._blob, record)}
        widest = compiled[None]
        inputs, outputs = specs(widest.inputs), specs(widest.outputs)
        super().__init__(record, inputs, outputs, int(widest.get_property("INFERENCE_NUM_THREADS")))
        self._requests: dict[int | None, Any] = {
            batch: model.create_infer_request() for batch, model in compiled.items()
        }
        self._output_names = [spec.name for spec in outputs]
        self._tensor: Any = import_part("openvino", "backend openvino").Tensor
        self._bound: Array | None = None  # the input's memory, which the request refers to

    def _infer(self, batch: Array) -> Outputs:
        # OpenVINO's own way to take arrays costs 30 us a call with cold caches, as they are after a network has run
        self._bound = batch if batch.flags.carray else batch.copy()
        request = self._requests.get(len(batch)) or self._requests[None]
        request.set_input_tensor(self._tensor(self._bound, shared_memory=True))
        return dict(zip(self._output_names, request.infer().values(), strict=True))

    def _profile(self, batch: Array, runs: int) -> list[LayerTime]:
        assert self._blob is not None
        parts = dict(_parts(self._blob, self.record))
        part = parts[len(batch) if len(batch) in parts else None]
        request = _import(part, self.record, self.threads, PERF_COUNT=True).create_infer_request()
        _run(request, batch, _WARM_UP)
        before = request.profiling_info
        _run(request, batch, runs)
        return _layer_times(before, request.profiling_info, runs)

    @one_at_a_time
    def execution_graphs(self) -> dict[int | None, Any]:
        """The execution graph by batch size, None for all other sizes; `rt_info` has layer types and precisions."""
        assert self._blob is not None
        return {
            batch: _import(part, self.record, self.threads).get_runtime_model()
            for batch, part in _parts(self._blob, self.record)
        }

    def _close(self) -> None:
        self._requests = {}
        self._bound = None
        self._blob = None


def shared_core() -> Any:
    """The one `openvino.Core` of this process, which lives as long as the process. Raises `BackendMissing`.

    The CPU plugin of a Core gives the thread that made it an alternate signal stack, and unmaps the stack with the
    Core's last model, in whatever thread that happens. If it is a different thread, the first thread keeps a stack that
    no longer exists, and its next signal (Ctrl-C or SIGTERM) is a segmentation fault.
    """
    with _making_the_core:
        return _core()


@cache
def _core() -> Any:
    return import_part("openvino", "backend openvino").Core()


def properties(precision: str, threads: int) -> dict[str, Any]:
    """The settings of compilation and import, all explicit."""
    return {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # every session counts its cores from the first: pinned, two sessions of one thread would share a core
        "ENABLE_CPU_PINNING": threads >= len(os.sched_getaffinity(0)),
    }


def require_precision(core: Any, compiled: Any, what: str, precision: str) -> None:
    """Raise `BackendMissing` unless `compiled` will really compute in `precision` on this CPU."""
    hint = PRECISION_HINTS[precision]
    runs_in = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if runs_in != hint or _CAPABILITIES[hint] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendMissing(f"{what}: this CPU can't compute in {precision} with OpenVINO; use another precision")


def specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    """Tensor specs of OpenVINO's ports; a dynamic axis becomes None."""
    return tuple(
        TensorSpec(
            port.get_any_name(),
            port.get_element_type().to_dtype().name,
            tuple(None if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape()),
        )
        for port in ports
    )


def _map(path: Path, record: EngineRecord) -> Array:
    """The file mapped privately: weights are used where they lie, and stay valid when the bundle is replaced."""
    try:
        return np.memmap(path, np.uint8, "c")
    except ValueError as error:
        raise BundleError(f"engine {record.id}: {path.name} is empty; {compile_again(record)}") from error


def _parts(blob: Array, record: EngineRecord) -> Iterator[tuple[int | None, Array]]:
    """The compiled models in an engine file and the batch that each is for, None for all others."""
    if "parts" not in record.details:  # of an older version, which stored one model that takes any batch
        yield None, blob
        return
    for part in record.detail_fields().inners("parts"):
        offset = part.get("offset", int)
        yield part.optional("batch", int), blob[offset : offset + part.get("size", int)]


def _import(blob: Array, record: EngineRecord, threads: int, **more: Any) -> Any:
    ov = import_part("openvino", "backend openvino")
    built, here = record.tools.get("openvino"), ov.get_version()
    what = f"engine {record.id}"
    if built != here:
        raise BundleError(f"{what}: built by OpenVINO {built}, this is {here}; {compile_again(record)}")
    core, settings = shared_core(), properties(record.precision, threads) | more
    try:
        compiled = core.import_model(ov.Tensor(blob, shared_memory=True), "CPU", settings)
    except (RuntimeError, ValueError) as error:  # ValueError: its message is no UTF-8
        raise BundleError(f"{what}: {_reason(error)}; {compile_again(record)}") from error
    require_precision(core, compiled, what, record.precision)
    return compiled


def _reason(error: Exception) -> str:
    cpus = re.findall(r"isa=(.+)", str(error))  # what it was built for and what is here
    if len(cpus) == 2:
        return f"built for a CPU with {cpus[0]}, this one has {cpus[1]}"
    return f"OpenVINO can't load it: {' '.join(str(error).split())[-300:]}"


def _run(request: Any, batch: Array, times: int) -> None:
    for _ in range(times):
        request.infer({0: batch}, share_inputs=True)


def _layer_times(before: list[Any], after: list[Any], runs: int) -> list[LayerTime]:
    """Mean times of the `runs` between two reports; OpenVINO reports means since the beginning."""
    warm = {layer.node_name: _ms(layer) for layer in before}
    return [
        LayerTime(
            layer.node_name,
            layer.node_type,
            max(0.0, (_ms(layer) * (_WARM_UP + runs) - warm.get(layer.node_name, 0.0) * _WARM_UP) / runs),
            _precision(layer.exec_type),
        )
        for layer in after
        if str(layer.status).endswith("EXECUTED")
    ]


def _ms(layer: Any) -> float:
    return float(layer.real_time.total_seconds()) * 1000


def _precision(exec_type: str) -> str:
    word = exec_type.rpartition("_")[2].lower()
    return _PRECISIONS.get(word, word)
