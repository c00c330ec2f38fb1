"""An engine as Triton's `ModelConfig` message: how Triton runs it, batches it and warms it up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.parts import import_part
from resnetrt.tensor_spec import TensorSpec

LABELS = "labels.txt"
_VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
WARM_UP_IMAGE = "golden-image"  # in the folder warmup/ of the model
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8", "int8": "TYPE_INT8"}


@dataclass(frozen=True)
class ServingOptions:
    """Under Triton's names. `max_batch_size` is ignored by an engine of one batch size; `instances` run side by
    side, on each of `gpus`, the server's numbers; none are all that it sees.

    Raises `UsageError` for values out of range.
    """

    max_batch_size: int = 8
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    instances: int = 1
    gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.instances < 1 or self.max_queue_delay_microseconds < 0:
            raise UsageError(
                "package: expected a positive --max-batch-size and --instances and a delay of at least 0, found "
                f"{self.max_batch_size}, {self.instances} and {self.max_queue_delay_microseconds}"
            )
        if len(set(self.gpus)) < len(self.gpus) or min(self.gpus, default=0) < 0:
            raise UsageError(f"--gpus: expected different numbers from 0 on, found {','.join(map(str, self.gpus))}")
        wrong = [size for size in self.preferred_batch_size if not 1 <= size <= self.max_batch_size]
        if wrong:
            raise UsageError(
                f"--preferred-batch-size: expected sizes from 1 to --max-batch-size {self.max_batch_size}, "
                f"found {wrong[0]}"
            )


@dataclass(frozen=True)
class Platform:
    """How Triton runs an engine: its `platform` or else `backend`, the file's name, and whether it takes a GPU.

    `takes_variant`: Triton's backend compiles the ONNX variant itself, instead of reading the engine.
    """

    file: str
    gpu: bool
    platform: str = ""
    backend: str = ""
    takes_variant: bool = False


def platform_of(record: EngineRecord) -> Platform:
    """The platform for an engine. Raises `UsageError` for an engine that Triton can't run as asked."""
    backend, target, precision = record.backend, record.target, record.precision
    if backend == "tensorrt":
        return Platform("model.plan", gpu=True, platform="tensorrt_plan")
    if backend == "onnxruntime" and target in {"cpu", "cuda"}:
        return Platform("model.onnx", gpu=target == "cuda", platform="onnxruntime_onnx")
    # Triton's backend can't be told a precision: only what the ONNX file itself fixes is what runs
    if backend == "openvino" and precision in {"fp32", "int8"}:
        return Platform("model.onnx", gpu=False, backend="openvino", takes_variant=True)
    raise UsageError(
        f"engine {record.id}: expected one that Triton runs (onnxruntime on cpu or cuda, openvino in fp32 or int8, "
        f"tensorrt), found {backend} on {target} in {precision}; choose another with --engine"
    )


def build_config(
    name: str, record: EngineRecord, options: ServingOptions, parameters: Mapping[str, str], labelled: str | None
) -> Any:
    """The `ModelConfig` of a model called `name`; `labelled` is the output that the labels are for, if there are any.

    No queue policy is set: Triton's default has no time limit. Raises `BackendMissing` without tritonclient,
    `UsageError` for an engine that can't be run as `options` say.
    """
    messages = protobuf_messages()
    platform = platform_of(record)
    config = messages.ModelConfig(name=name, platform=platform.platform, backend=platform.backend)
    config.default_model_filename = platform.file
    batch, profiles = _batches(record, options)
    config.max_batch_size = batch
    for field, specs in ((config.input, record.inputs), (config.output, record.outputs)):
        for spec in specs:
            data_type = messages.DataType.Value(_type_of(spec, record))
            field.add(name=spec.name, data_type=data_type, dims=_dims(spec, batch))
    for output in config.output:
        if output.name == labelled:
            output.label_filename = LABELS
    if options.gpus and not platform.gpu:
        raise UsageError(f"engine {record.id}: --gpus: expected an engine that runs on a GPU, found one for the CPU")
    kind = messages.ModelInstanceGroup.KIND_GPU if platform.gpu else messages.ModelInstanceGroup.KIND_CPU
    # without names Triton's TensorRT backend takes profile 0 alone, and refuses a larger max_batch_size
    config.instance_group.add(kind=kind, count=options.instances, gpus=options.gpus, profile=profiles)
    if batch:
        config.dynamic_batching.preferred_batch_size.extend(
            sorted({size for size in options.preferred_batch_size if size <= batch})
        )
        config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_microseconds
    capability = _compute_capability(record)
    if capability:
        config.cc_model_filenames[capability] = platform.file
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    _add_warm_up(config, sorted({1, max(batch, 1)}))
    return config


def to_text(config: Any) -> str:
    """The message as the text of a `config.pbtxt`."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config))


def protobuf_messages() -> Any:
    """The module with Triton's messages; raises `BackendMissing` naming the extra that installs it."""
    return import_part("tritonclient.grpc.model_config_pb2", "package triton")


def server_flags(record: EngineRecord) -> tuple[str, ...]:
    """What `tritonserver` must be told for an engine: a version-compatible plan holds code, which it has to trust."""
    return (_VERSION_COMPATIBLE,) if record.options.get("version_compatible") else ()


def _batches(record: EngineRecord, options: ServingOptions) -> tuple[int, list[str]]:
    """Triton's `max_batch_size` and the names of the profiles to use, none where the plan has one or none.

    Triton forms every batch from one image to the largest, so profiles behind a gap are left out. 0 for an engine whose
    batch axis is fixed, whose dimensions then include it. Raises `UsageError` if no profile takes one image.
    """
    if record.inputs[0].shape[0] is not None:
        return 0, []
    spans = [(int(item["min"][0]), int(item["max"][0])) for item in record.options.get("profiles") or ()]
    reached = 0
    for low, high in sorted(spans):
        reached = max(reached, high) if low <= reached + 1 else reached
    if spans and not reached:
        raise UsageError(
            f"engine {record.id}: expected a profile that takes one image, as Triton sends every batch up to the "
            f"largest, found {', '.join(f'{low} to {high}' for low, high in spans)}; compile it with --profiles 1:8:32"
        )
    batch = min(options.max_batch_size, reached or options.max_batch_size)
    used = [str(index) for index, (low, _) in enumerate(spans) if low <= batch]
    return batch, used if len(spans) > 1 else []


def _dims(spec: TensorSpec, batch: int) -> list[int]:
    return [-1 if axis is None else axis for axis in spec.shape[1 if batch else 0 :]]


def _type_of(spec: TensorSpec, record: EngineRecord) -> str:
    if spec.dtype not in _TYPES:
        raise UsageError(
            f"engine {record.id}: expected tensors of {', '.join(sorted(_TYPES))}, found {spec.dtype} {spec.name}"
        )
    return _TYPES[spec.dtype]


def _compute_capability(record: EngineRecord) -> str:
    """`8.6` for a TensorRT engine of target `sm86`; empty where the engine is bound to none."""
    target = record.target
    digits = target.removeprefix("sm")
    if record.backend != "tensorrt" or not target.startswith("sm") or not digits.isdecimal():
        return ""
    return f"{digits[:-1]}.{digits[-1]}"


def _add_warm_up(config: Any, batches: list[int]) -> None:
    """A real image at each batch size before the model counts as ready; Triton repeats the one image."""
    tensor = config.input[0]
    for size in batches:
        sample = config.model_warmup.add(name=f"golden-image-batch-{size}", batch_size=size)
        sample.inputs[tensor.name].data_type = tensor.data_type
        sample.inputs[tensor.name].dims.extend(tensor.dims)
        sample.inputs[tensor.name].input_data_file = WARM_UP_IMAGE
