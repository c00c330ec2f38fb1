"""ONNX Runtime: the engine file is the ONNX variant itself, optimised when it is loaded."""

import ctypes
import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, BundleError, DeviceLost, UsageError
from resnetrt.parts import import_part
from resnetrt.runtime.backends import compile_again
from resnetrt.runtime.backends.onnxruntime_bound import Bound, can_bind
from resnetrt.runtime.backends.onnxruntime_cache import building
from resnetrt.runtime.backends.onnxruntime_faults import gpu_fault
from resnetrt.runtime.backends.onnxruntime_providers import CUDA, TENSORRT, provider_options
from resnetrt.runtime.cuda import chosen_device, find_devices
from resnetrt.runtime.session import Array, LayerTime, Outputs, Session
from resnetrt.tensor_spec import TensorSpec

# Execution providers by target. Each is followed by the CPU provider, for nodes that ONNX Runtime always runs there.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": (CUDA, "CPUExecutionProvider"),
    "trt-ep": (TENSORRT, CUDA, "CPUExecutionProvider"),
}
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}
# A graph optimization that quantizes float weights between quantized values to 8 bits, with one scale for all channels.
# This affects layers that a variant keeps in float, and transposed convolutions: 1.32 left 1 to 2 % of the logits.
_NEVER = ["WeightBiasQuantization"]
_WARM_UP = 2
_GPUS = (CUDA, TENSORRT)
MEMORY = "cuda"  # the kind of device memory, as ONNX Runtime calls it
_log = logging.getLogger("resnetrt.runtime")


def load(engine_path: Path, record: EngineRecord, threads: int, device: str | None = None) -> "OnnxRuntimeSession":
    """Load an engine; see `resnetrt.runtime.backends.Backend`."""
    return OnnxRuntimeSession(engine_path, record, threads, device)


class OnnxRuntimeSession(Session):
    """An engine in ONNX Runtime. Outputs are new arrays; a contiguous input is read in place.

    On a GPU it runs from and to fixed memory there (`Bound`), the CUDA provider with CUDA graphs where it can.
    """

    def __init__(self, path: Path, record: EngineRecord, threads: int, device: str | None = None) -> None:
        self._path, self._device, self._threads, self._lost = path, device, threads, ""
        self._gpu = record.target != "cpu"
        native, graphs = self._open(record)
        inputs, outputs = specs(native.get_inputs()), specs(native.get_outputs())
        super().__init__(record, inputs, outputs, threads)
        if spans := [(int(each["min"][0]), int(each["max"][0])) for each in self._profiles(record)]:
            self.batch_limits = spans[0]
        self._native: Any = native
        self._input_name = inputs[0].name
        self._output_names = [spec.name for spec in outputs]
        self._bound: Bound | None = None
        if self._gpu and can_bind(inputs, outputs):
            where = (MEMORY, device_index(device))
            self._bound = Bound(native, inputs[0], outputs, where, graphs, f"engine {record.id}")

    @property
    def lost(self) -> str:
        """See `Session`."""
        return self._lost

    def _open(self, record: EngineRecord) -> tuple[Any, bool]:
        """ONNX Runtime's session, and whether CUDA graphs are enabled: it refuses them if nodes run on the CPU."""
        if record.target == "cuda":
            try:
                return self._create(record, graphs=True), True
            except BundleError as error:
                _log.info("engine %s: no CUDA graphs: %s", record.id, error)
        try:
            return self._create(record), False
        except BundleError as error:
            raise BundleError(f"engine {record.id}: {error}; {compile_again(record)}") from error

    def _create(self, record: EngineRecord, graphs: bool = False, profile_prefix: str | None = None) -> Any:
        return create_native(
            self._path,
            record.target,
            self._threads,
            precision=record.precision,
            profiles=self._profiles(record),
            device=self._device,
            graphs=graphs,
            profile_prefix=profile_prefix,
        )

    @staticmethod
    def _profiles(record: EngineRecord) -> Sequence[Mapping[str, Any]]:
        return record.options.get("profiles") or ()

    def _infer(self, batch: Array) -> Outputs:
        if self._gpu:
            return self._infer_on_gpu(batch)
        names = self._output_names
        return dict(zip(names, self._native.run(names, {self._input_name: batch}), strict=True))

    def _infer_on_gpu(self, batch: Array) -> Outputs:
        try:
            if self._bound is not None:
                return self._bound.run(batch)
            names = self._output_names
            return dict(zip(names, self._native.run(names, {self._input_name: batch}), strict=True))
        except Exception as error:  # its exceptions derive from Exception alone
            failure = gpu_fault(error, f"engine {self.record.id}", device_index(self._device))
            if isinstance(failure, DeviceLost):
                self._lost = str(failure)
            raise failure from error

    def _profile(self, batch: Array, runs: int) -> list[LayerTime]:
        with tempfile.TemporaryDirectory(prefix="resnetrt-profile-") as folder:
            native = self._create(self.record, profile_prefix=f"{folder}/run")
            for _ in range(_WARM_UP + runs):
                native.run(self._output_names, {self._input_name: batch})
            events = json.loads(Path(native.end_profiling()).read_text())
        return _layer_times(events, runs)

    def _close(self) -> None:
        if self._lost:  # its destructors end the process then (microsoft/onnxruntime#2963), so they never run
            ctypes.pythonapi.Py_IncRef(ctypes.py_object((self._native, self._bound)))
        self._native = self._bound = None


def create_native(
    path: Path,
    target: str,
    threads: int,
    *,
    precision: str = "fp32",
    profiles: Sequence[Mapping[str, Any]] = (),
    device: str | None = None,
    graphs: bool = False,
    profile_prefix: str | None = None,
    optimized_path: Path | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` with every setting explicit, on the providers of `target` or none.

    `profiles` are the shapes (`input`, `min`, `opt`, `max`) that TensorRT's provider is to be tuned for; with `graphs`
    the CUDA provider captures CUDA graphs. Where engines are kept, one process builds at a time.
    With `profile_prefix` it times its nodes; with `optimized_path` it writes the graph that it will execute there, in
    its own format if the name ends in `.ort`, else as ONNX.
    Raises `BackendMissing` if ONNX Runtime lacks a provider or silently left one out, `BundleError` if it refuses the
    file.
    """
    ort = import_part("onnxruntime", "backend onnxruntime")
    if target not in PROVIDERS:
        raise UsageError.unknown("target of onnxruntime", target, PROVIDERS)
    _require_providers(target, ort.get_available_providers())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised below, not printed
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
        options.add_session_config_entry("session.save_model_format", optimized_path.suffix.lstrip(".").upper())
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if target != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from their packages, where they are not on the library path
    version, chosen = str(ort.__version__), None if target == "cpu" else chosen_device("onnxruntime", device)
    index = {} if chosen is None else {"device_id": str(chosen.index)}
    providers = [
        (name, provider_options(name, path, precision, version, profiles, graphs) | (index if name in _GPUS else {}))
        for name in PROVIDERS[target]
    ]
    try:
        with building(providers[0][1], "" if chosen is None else chosen.target):
            native = ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=_NEVER)
    except Exception as error:  # its exceptions derive from Exception alone
        if target != "cpu":
            failure = gpu_fault(error, f"onnxruntime {version}", 0 if chosen is None else chosen.index)
            if isinstance(failure, DeviceLost):
                raise failure from error
        raise BundleError(f"onnxruntime {version} can't load {path.name}: {error}") from error
    _require_providers(target, native.get_providers())
    native.disable_fallback()  # else a failing GPU call is repeated on the CPU, silently
    return native


def cuda_is_here() -> bool:
    """Whether this ONNX Runtime has its CUDA provider, which it has without a GPU too, and the machine a GPU."""
    try:
        return CUDA in import_part("onnxruntime", "backend onnxruntime").get_available_providers() and bool(
            find_devices()[0]
        )
    except BackendMissing:
        return False


def device_index(wanted: str | None) -> int:
    """The number of the GPU that `wanted`, or else the setting, chooses."""
    chosen = chosen_device("onnxruntime", wanted)
    return 0 if chosen is None else chosen.index


def _require_providers(target: str, here: list[str]) -> None:
    missing = [provider for provider in PROVIDERS[target] if provider not in here]
    if missing:
        raise BackendMissing(
            f"onnxruntime, target {target}: expected the execution provider {missing[0]}, found {', '.join(here)}; "
            "for an NVIDIA GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )


def specs(nodes: list[Any]) -> tuple[TensorSpec, ...]:
    """Tensor specs of ONNX Runtime's `NodeArg`s; a symbolic axis becomes None."""
    return tuple(TensorSpec(node.name, _DTYPES.get(node.type, node.type), _shape(node.shape)) for node in nodes)


def _shape(axes: list[Any]) -> tuple[int | None, ...]:
    return tuple(axis if isinstance(axis, int) else None for axis in axes)


def _layer_times(events: list[dict[str, Any]], runs: int) -> list[LayerTime]:
    suffix = "_kernel_time"
    by_layer: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            args = event["args"]
            key = (event["name"].removesuffix(suffix), args["op_name"], _precision(args["input_type_shape"]))
            by_layer[key].append(event["dur"])
    return [
        LayerTime(name, op, sum(micros[-runs:]) / runs / 1000, precision)
        for (name, op, precision), micros in by_layer.items()
    ]


def _precision(inputs: list[dict[str, Any]]) -> str:
    dtype = next(iter(inputs[0]), "none") if inputs else "none"
    return _PRECISIONS.get(dtype, dtype)
