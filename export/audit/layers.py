"""The executed layers of an engine in the words that all backends share."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["compute", "quantize", "cast", "reformat"]

_SPELLINGS = {
    **dict.fromkeys(("float", "f32", "fp32", "float32"), "fp32"),
    **dict.fromkeys(("half", "f16", "fp16", "float16"), "fp16"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("i8", "u8", "int8", "uint8"), "int8"),
    **dict.fromkeys(("fp8", "float8e4m3fn", "fp8e4m3"), "fp8"),
}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class ExecutedLayer:
    """One layer of an engine as its backend runs it.

    `op` is the backend's name of the operator; `precision` the type that it computes in. `kind` separates work from
    layers that only change types (`quantize`, `cast`) or memory order (`reformat`). `multiplies` says whether the
    operator is a convolution or a matrix product, None if that can't be told. `composite` says whether the layer stands
    for several nodes, of which the backend may name only the last. As far as the backend kept them, `source` names the
    ONNX nodes, or their outputs, whose work the layer does, `constants` the constants it reads, `inputs` the layers
    whose results it reads, and `readers` the `source` of the layers that read its output.
    """

    name: str
    op: str
    precision: str
    kind: Kind = "compute"
    source: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    multiplies: bool | None = False
    composite: bool = False


@dataclass(frozen=True)
class Evidence:
    """Executed layers and where they were read.

    `complete`: every ONNX node is named by the layer that runs it, so a node that no layer names is a gap. A backend
    that removes nodes without a trace (ReLU into an unsigned range) is not complete.
    """

    layers: tuple[ExecutedLayer, ...]
    read_from: str
    complete: bool = False


def precision_of(word: str) -> str:
    """`fp32`, `fp16`, `bf16`, `fp8` or `int8` for a backend's name of a type, or that name in lower case."""
    return _SPELLINGS.get(word.lower(), word.lower())


def layer_json(layer: ExecutedLayer, macs: int) -> dict[str, Any]:
    """The record of one layer; `macs` for one image, 0 for anything but a convolution or matrix product."""
    return {
        "name": layer.name,
        "op": layer.op,
        "precision": layer.precision,
        "kind": layer.kind,
        "macs": macs,
        "source": list(layer.source),
    }
