"""ONNX Runtime: the engine is the ONNX variant, byte for byte.

Measured on ResNet-50 INT8 (FP32), 2 cores: the ONNX loads in 0.16 s (0.23), ONNX Runtime's own optimised ONNX or ORT
file in 0.14 to 0.16 s (0.15 to 0.6), at equal speed and equal outputs. So a file bound to one version and CPU would
gain nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetrt.errors import UsageError
from resnetrt.export.compilers.engine import CompiledEngine, choose_target, require_known_options, require_precision
from resnetrt.parts import import_part
from resnetrt.runtime.backends.onnxruntime import PROVIDERS, create_native, specs

TARGETS = tuple(PROVIDERS)
DIALECT = "onnxruntime"
CASTS = ("fp16",)
# On an x86 CPU it casts FP16 nodes to FP32 and runs those, and it has no BF16 convolution.
_PRECISIONS = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16"), "trt-ep": ("fp32", "fp16", "int8")}
_BATCHES = (1, 8, 32)  # smallest, tuned and largest for TensorRT's provider, which else builds anew for each new batch


def compile_engine(variant_path: Path, precision: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
    """See `resnetrt.export.compilers.Compiler`; there are no options."""
    check_request(precision, target, options)
    profiles = _profiles(variant_path) if target == "trt-ep" else []
    native = create_native(variant_path, target, threads=1, precision=precision, profiles=profiles)
    return CompiledEngine(
        blob=variant_path.read_bytes(),
        extension="onnx",
        inputs=specs(native.get_inputs()),
        outputs=specs(native.get_outputs()),
        tools={"onnxruntime": import_part("onnxruntime", "backend onnxruntime").__version__},
        options={"profiles": profiles} if profiles else {},
    )


def _profiles(variant_path: Path) -> list[dict[str, Any]]:
    """The shapes to tune for, of a file whose batch is free; ONNX Runtime's CPU provider reads the inputs."""
    inputs = specs(create_native(variant_path, "cpu", threads=1).get_inputs())
    if any(spec.shape[0] is not None for spec in inputs):
        return []
    edges = dict(zip(("min", "opt", "max"), _BATCHES, strict=True))
    return [
        {"input": spec.name, **{edge: [batch, *spec.shape[1:]] for edge, batch in edges.items()}} for spec in inputs
    ]


def check_request(precision: str, target: str, options: Mapping[str, Any]) -> None:
    """See `resnetrt.export.compilers.Compiler`."""
    import_part("onnxruntime", "backend onnxruntime")
    require_known_options("onnxruntime", options)
    if (target, precision) == ("cuda", "int8"):
        raise UsageError(
            "onnxruntime on cuda: its CUDA provider has no integer convolution, so INT8 would run as float between "
            "casts; choose --precision fp16, or --target trt-ep, or --backend tensorrt"
        )
    require_precision("onnxruntime", target, precision, _PRECISIONS[target])


def resolve_target(target: str | None) -> str:
    """See `resnetrt.export.compilers.Compiler`."""
    return choose_target("onnxruntime", TARGETS, target)


def usual_precisions(target: str) -> tuple[str, ...]:
    """See `resnetrt.export.compilers.Compiler`."""
    return _PRECISIONS[target]


def remark(_precision: str) -> str:
    """See `resnetrt.export.compilers.Compiler`."""
    return ""


def obstacle(_target: str) -> str:
    """See `resnetrt.export.compilers.Compiler`: compiling needs the device itself."""
    return ""
