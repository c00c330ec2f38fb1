"""The compilers, one module for each backend, and how to find them."""

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from resnetrt.errors import UsageError
from resnetrt.export.compilers.engine import CompiledEngine

__all__ = ["COMPILERS", "CompiledEngine", "Compiler", "find_compiler", "variants_for"]


class Compiler(Protocol):
    """What a module of this folder defines, or an object in one.

    `TARGETS` are its targets, `DIALECT` the INT8 dialect made for it, `CASTS` the precisions for which it takes the
    variant of `resnetrt.export.cast.recipes`.
    """

    TARGETS: tuple[str, ...]
    DIALECT: str
    CASTS: tuple[str, ...]

    @staticmethod
    def compile_engine(variant_path: Path, precision: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
        """Compile the ONNX file.

        Raises `UsageError` for a request that makes no sense, `BackendRefused` for a graph that it can't take,
        `BackendMissing` for what is not here.
        """

    @staticmethod
    def check_request(precision: str, target: str, options: Mapping[str, Any]) -> None:
        """Raise what `compile_engine` would for any file: `UsageError` or `BackendMissing`."""

    @staticmethod
    def resolve_target(target: str | None) -> str:
        """`target` in its usual form, or the default for None; raises `UsageError` for one that there is not."""

    @staticmethod
    def usual_precisions(target: str) -> tuple[str, ...]:
        """The precisions worth making for `target` where the user names none."""

    @staticmethod
    def remark(precision: str) -> str:
        """What to know before choosing that precision; empty if there is nothing to say."""

    @staticmethod
    def obstacle(target: str) -> str:
        """Why an engine for `target` can't run on this machine; empty if it can."""


# module, or module:object
COMPILERS: dict[str, str] = {
    "onnxruntime": "resnetrt.export.compilers.onnxruntime",
    "openvino": "resnetrt.export.compilers.openvino",
    "tensorrt": "resnetrt.export.compilers.tensorrt.compiler:full",
    "tensorrt_rtx": "resnetrt.export.compilers.tensorrt.compiler:rtx",
}


# ONNX Runtime's TensorRT provider gives its graph to TensorRT, which refuses uint8 activations and int32 biases
_TAKES_AS = {("onnxruntime", "trt-ep"): "tensorrt"}


def variants_for(backend: str, target: str | None = None) -> Compiler:
    """The compiler whose `DIALECT` and `CASTS` say which variants `backend` takes on `target`; raises as below."""
    return find_compiler(_TAKES_AS.get((backend, target or ""), backend))


def find_compiler(backend: str) -> Compiler:
    """The compiler of `backend`; raises `UsageError` for an unknown one. Its package need not be installed."""
    if backend not in COMPILERS:
        raise UsageError.unknown("backend", backend, COMPILERS)
    return cast(Compiler, pkgutil.resolve_name(COMPILERS[backend]))
