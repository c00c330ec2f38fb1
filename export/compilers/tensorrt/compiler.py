"""TensorRT 10.3 to 11.x builds for the GPU of this machine, TensorRT-RTX on any machine for one or several GPUs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.export.compilers.engine import CompiledEngine, require_precision
from resnetrt.export.compilers.tensorrt.build import build_engine, check_build
from resnetrt.export.compilers.tensorrt.flavour import (
    FULL,
    RTX,
    Flavour,
    building_here,
    obstacle,
    resolve_full_target,
    resolve_rtx_target,
)


@dataclass(frozen=True)
class TensorRTCompiler:
    """The `resnetrt.export.compilers.Compiler` of one product; options are those of `TensorRTOptions`."""

    flavour: Flavour
    resolve_target: Callable[[str | None], str]
    DIALECT: str = "tensorrt"
    CASTS: tuple[str, ...] = ("fp16", "bf16", "int8", "fp8")

    @property
    def TARGETS(self) -> tuple[str, ...]:  # noqa: N802  # the other compilers are modules, this is their constant
        """See `Compiler`."""
        return self.flavour.targets

    def compile_engine(
        self, variant_path: Path, precision: str, target: str, options: Mapping[str, Any]
    ) -> CompiledEngine:
        """See `Compiler`."""
        with building_here(self.flavour.title):
            return build_engine(self.flavour, variant_path, precision, target, options)

    def check_request(self, precision: str, target: str, options: Mapping[str, Any]) -> None:
        """See `Compiler`."""
        require_precision(self.flavour.backend, target, precision, ("fp32", *self.CASTS))
        check_build(self.flavour, precision, options, self.flavour.title)

    def usual_precisions(self, target: str) -> tuple[str, ...]:
        """See `Compiler`: what has a remark is made only where it can be measured."""
        measured = not self.obstacle(target)
        return tuple(name for name in ("fp32", "fp16", "int8") if measured or name == "fp16")

    def remark(self, precision: str) -> str:
        """See `Compiler`."""
        return self.flavour.remarks.get(precision, "")

    def obstacle(self, target: str) -> str:
        """See `Compiler`."""
        return obstacle(self.flavour, target)


full = TensorRTCompiler(FULL, resolve_full_target)
rtx = TensorRTCompiler(RTX, resolve_rtx_target)
