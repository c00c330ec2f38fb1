"""TensorRT's setters log and do not raise: what its log means, as one exception with the first error."""

import re
from collections.abc import Collection, Iterable

from resnetrt.errors import CheckFailed, ResnetrtError, UsageError
from resnetrt.runtime.backends.tensorrt_logger import Lines, first_error

_QUANTIZE = "quantize with: resnetrt quantize BUNDLE --dialect tensorrt"
# text in an error: what to do about it
_ADVICE = {
    "has type Int32 but must have type": f"TensorRT takes float biases, not int32; {_QUANTIZE}",
    "Non-zero zero point": f"TensorRT takes symmetric activations with zero point 0; {_QUANTIZE}",
    "QLinear": f"TensorRT takes QuantizeLinear/DequantizeLinear, not QOperator nodes; {_QUANTIZE}",
    "unsupported datatype (4)": f"TensorRT takes int8, not uint16; {_QUANTIZE}",
    "unsupported datatype (5)": f"TensorRT takes int8, not int16; {_QUANTIZE}",
    "FP32 GEMM is not supported": "choose --precision fp16, or leave sm75 out of --target",
    "model contains HW-specific datatypes": "leave that target out of --target, or choose --precision fp16",
}


def node_in(text: str, nodes: Iterable[str]) -> str:
    """The longest ONNX node name that `text` mentions as a whole word; empty if there is none."""
    named = [name for name in nodes if name and re.search(rf"(?<![\w./]){re.escape(name)}(?![\w/]|\.\w)", text)]
    return max(named, key=len, default="")


def advice(text: str) -> str:
    """What to do about an error, after a semicolon; empty if unknown."""
    return next((f"; {hint}" for key, hint in _ADVICE.items() if key in text), "")


def build_error(lines: Lines, what: str, doing: str, nodes: Collection[str] = ()) -> ResnetrtError:
    """The exception for a failure while `doing` something to `what`: the first error and the node behind it.

    `UsageError` if a different request is known to help, else `CheckFailed`.
    """
    text = first_error(lines) or "TensorRT gave no reason"
    node = node_in(text, nodes)
    where = f" (ONNX node {node})" if node else ""
    kind = UsageError if advice(text) else CheckFailed
    return kind(f"{what}: {doing} failed{where}: {text}{advice(text)}")


def require_no_error(lines: Lines, what: str, doing: str, nodes: Collection[str] = ()) -> None:
    """Raise as `build_error` says if an ERROR was logged, whatever the call returned."""
    if first_error(lines):
        raise build_error(lines, what, doing, nodes)
