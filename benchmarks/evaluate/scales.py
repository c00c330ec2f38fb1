"""Bad scales in an INT8 file: activations that saturate or use few steps, weights far from their FP32 values."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resnetrt.parts import import_part
from resnetrt.preprocess import FloatArray

if TYPE_CHECKING:
    import onnx

_SATURATED = 0.05  # clipping by least squared error cuts well below one value in a hundred
_FEWEST_STEPS = 12.0
_WEIGHT_ERROR = 0.15  # relative; per-channel int8 gives about 0.01
_LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class ScaleFault:
    """A tensor whose scale is wrong, and what is wrong, in words."""

    tensor: str
    words: str


def scale_faults(variant: Path, images: FloatArray, fp32: Path | None = None) -> list[ScaleFault]:
    """Tensors of the INT8 file `variant` with a bad scale, judged on `images` `(n, C, H, W)`, in graph order.

    With `fp32`, stored weights are compared with the float weights of the same name. Raises `BackendMissing` without
    onnx.
    """
    onnx = import_part("onnx", "scales")
    model = onnx.load(str(variant))
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = _weights(fp32) if fp32 is not None else {}
    faults = _weight_faults(model, constants, weights)
    return [*faults, *_activation_faults(model, constants, images)]


def _weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    import onnx

    return {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}


def _weight_faults(
    model: "onnx.ModelProto", constants: dict[str, FloatArray], weights: dict[str, FloatArray]
) -> list[ScaleFault]:
    import onnx_ir as ir

    from resnetrt.export.variants.qdq import along, scale_axis

    faults = []
    for node in model.graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        name = node.input[0].removesuffix(".quantized").removesuffix("_quantized").rpartition("/")[2]
        if stored is None or name not in weights or stored.shape != weights[name].shape:
            continue
        axis = scale_axis(ir.serde.deserialize_node(node))
        difference = stored * along(constants[node.input[1]], axis, stored.ndim) - weights[name]
        error = float(np.linalg.norm(difference) / max(float(np.linalg.norm(weights[name])), 1e-30))
        if error > _WEIGHT_ERROR:
            faults.append(ScaleFault(name, f"weights are off by {error:.0%} of their size"))
    return faults


def _activation_faults(
    model: "onnx.ModelProto", constants: dict[str, FloatArray], images: FloatArray
) -> list[ScaleFault]:
    from resnetrt.export.variants.inner_values import InnerValues

    graph = model.graph
    pairs = [
        node
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants and constants[node.input[1]].size == 1
    ]
    values = InnerValues(model, [node.input[0] for node in pairs]).of(images)
    faults = []
    for node in pairs:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        words = _judge(values[node.input[0]], float(scale.item()), int(zero.item()), str(zero.dtype))
        if words:
            faults.append(ScaleFault(node.input[0], words))
    return faults


def _judge(values: FloatArray, scale: float, zero: int, dtype: str) -> str:
    low, high = _LIMITS[dtype]
    steps = values / scale + zero
    beyond = float(((steps < low - 0.5) | (steps > high + 0.5)).mean())
    if beyond > _SATURATED:
        return f"{beyond:.0%} of its values are cut off: the scale {scale:.3g} is too small"
    spread = float(steps.max() - steps.min())
    if spread < _FEWEST_STEPS:
        return f"its values span {spread:.1f} of {high - low} steps: the scale {scale:.3g} is too large"
    return ""
