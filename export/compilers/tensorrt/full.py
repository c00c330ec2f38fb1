"""TensorRT 10.3 to 11.x: an engine for the GPU of this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetrt.export.compilers.engine import CompiledEngine, require_precision
from resnetrt.export.compilers.tensorrt.build import build_engine, check_build
from resnetrt.export.compilers.tensorrt.flavour import FULL, resolve_full_target
from resnetrt.export.compilers.tensorrt.flavour import obstacle as obstacle_of

TARGETS = FULL.targets
DIALECT = "tensorrt"
CASTS = ("fp16", "bf16", "int8", "fp8")
resolve_target = resolve_full_target


def compile_engine(variant_path: Path, precision: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
    """See `resnetrt.export.compilers.Compiler`; options are those of `TensorRTOptions`."""
    return build_engine(FULL, variant_path, precision, target, options)


def check_request(precision: str, target: str, options: Mapping[str, Any]) -> None:
    """See `resnetrt.export.compilers.Compiler`."""
    require_precision(FULL.backend, target, precision, ("fp32", *CASTS))
    check_build(FULL, precision, options, FULL.title)


def obstacle(target: str) -> str:
    """See `resnetrt.export.compilers.Compiler`."""
    return obstacle_of(FULL, target)
