"""OpenVINO: the engine is the compiled model, exported as OpenVINO's own blob: for any batch, and for single images.

Measured on ResNet-50 INT8, 2 cores, for each: importing the blob takes 0.06 to 0.09 s, compiling from ONNX 0.34 s, from
OpenVINO's IR 0.32 s; latency and outputs are the same. A blob is bound to the OpenVINO version and the CPU's
instruction sets; both are checked when it is loaded.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetrt.errors import BackendRefused
from resnetrt.export.compilers.engine import CompiledEngine, choose_target, require_known_options, require_precision
from resnetrt.parts import import_part
from resnetrt.runtime.backends.openvino import PRECISION_HINTS, properties, shared_core, specs
from resnetrt.runtime.backends.openvino import require_precision as require_precision_of_cpu
from resnetrt.runtime.load import check_threads

TARGETS = ("cpu",)
DIALECT = "cpu"
CASTS = ("fp16", "bf16")
_SINGLE = 1
_PAGE = 4096
# For fixed shapes OpenVINO's code generator takes residual adds out of the convolutions that they are fused into. That
# gives ResNet-50 12 more kernels, and it then takes 8 % longer, instead of 3 % less, than with a free batch.
_FUSED = {"SNIPPETS_MODE": "DISABLE"}


def compile_engine(variant_path: Path, precision: str, target: str, options: Mapping[str, Any]) -> CompiledEngine:
    """See `resnetrt.export.compilers.Compiler`; there are no options."""
    check_request(precision, target, options)
    compiled: dict[int | None, Any] = {None: _compile(variant_path, precision, None)}
    if compiled[None].input().get_partial_shape()[0].is_dynamic:
        compiled[_SINGLE] = _compile(variant_path, precision, _SINGLE)
    joined, parts = _join({batch: model.export_model() for batch, model in compiled.items()})
    return CompiledEngine(
        blob=joined,
        extension="blob",
        inputs=specs(compiled[None].inputs),
        outputs=specs(compiled[None].outputs),
        tools={"openvino": import_part("openvino", "backend openvino").get_version()},
        options={"INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision]},
        details={"parts": parts},
    )


def check_request(precision: str, target: str, options: Mapping[str, Any]) -> None:
    """See `resnetrt.export.compilers.Compiler`."""
    import_part("openvino", "backend openvino")
    require_known_options("openvino", options)
    require_precision("openvino", target, precision, PRECISION_HINTS)


def fix_batch(model: Any, batch: int) -> None:
    """Give the one input of an `openvino.Model` a batch axis of `batch`."""
    shape = model.input().get_partial_shape()
    shape[0] = batch
    model.reshape(shape)


def _compile(path: Path, precision: str, batch: int | None) -> Any:
    """The model of `path`, compiled for batches of `batch`; None keeps its batch axis."""
    core, settings = shared_core(), properties(precision, check_threads(None))
    try:
        model = core.read_model(path)
        if batch is not None:
            fix_batch(model, batch)
            settings |= _FUSED
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise BackendRefused(f"openvino can't compile {path.name}: {_reason(error)}; try another --backend") from error
    require_precision_of_cpu(core, compiled, f"variant {path.name}", precision)
    return compiled


def _reason(error: RuntimeError) -> str:
    """OpenVINO's error message without the leading positions in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return textwrap.shorten(" ".join(told or lines), 300, placeholder=" ...")


def _join(exported: Mapping[int | None, Any]) -> tuple[bytes, list[dict[str, int | None]]]:
    """The blobs one after the other, each at the beginning of a page, and where they lie."""
    joined, parts = bytearray(), []
    for batch, exported_model in exported.items():
        blob = (
            exported_model if isinstance(exported_model, bytes) else exported_model.getvalue()
        )  # a BytesIO in older versions
        joined += bytes(-len(joined) % _PAGE)
        parts.append({"batch": batch, "offset": len(joined), "size": len(blob)})
        joined += blob
    return bytes(joined), parts


def resolve_target(target: str | None) -> str:
    """See `resnetrt.export.compilers.Compiler`."""
    return choose_target("openvino", TARGETS, target)


def usual_precisions(_target: str) -> tuple[str, ...]:
    """See `resnetrt.export.compilers.Compiler`: the half precisions are for CPUs that compute in them."""
    return ("fp32", "int8")


def remark(_precision: str) -> str:
    """See `resnetrt.export.compilers.Compiler`."""
    return ""


def obstacle(_target: str) -> str:
    """See `resnetrt.export.compilers.Compiler`: compiling needs the device itself."""
    return ""
