"""TensorRT-RTX: an engine for one or several generations of RTX GPUs, built on any machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetrt.export.compilers.engine import CompiledEngine, require_precision
from resnetrt.export.compilers.tensorrt.build import build_engine, check_build
from resnetrt.export.compilers.tensorrt.flavour import RTX, resolve_rtx_target
from resnetrt.export.compilers.tensorrt.flavour import obstacle as obstacle_of

TARGETS = RTX.targets
DIALECT = "tensorrt"
CASTS = ("fp16", "bf16", "int8", "fp8")
resolve_target = resolve_rtx_target


def compile_engine(variant_path: Path, precision: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
    """See `resnetrt.export.compilers.Compiler`; options are those of `TensorRTOptions`."""
    return build_engine(RTX, variant_path, precision, target, options)


def check_request(precision: str, target: str, options: Mapping[str, Any]) -> None:
    """See `resnetrt.export.compilers.Compiler`."""
    require_precision(RTX.backend, target, precision, ("fp32", *CASTS))
    check_build(RTX, precision, options, RTX.title)


def obstacle(target: str) -> str:
    """See `resnetrt.export.compilers.Compiler`."""
    return obstacle_of(RTX, target)
