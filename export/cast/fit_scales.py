"""Make the scales of a Q/DQ graph exact in FP16, so that it can stand over an FP16 carrier.

A scale becomes the nearest FP16 number; below 2**-14, where FP16 gets coarse, the next larger one, so that nothing
clips. Stored integers are rounded anew to the new scale; for normal scales that leaves them as they are.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.export.variants.qdq import along, scale_axis

_NORMAL = 2.0**-14
_SMALLEST = 2.0**-24


def fp16_scale(scale: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Positive scales as float32 numbers that FP16 holds exactly; scales beyond FP16 stay as they are."""
    wanted = np.maximum(scale.astype(np.float64), _SMALLEST)
    with np.errstate(over="ignore"):
        nearest = wanted.astype(np.float16)
    up = np.where(nearest < wanted, np.nextafter(nearest, np.float16(np.inf)), nearest)
    chosen = np.where(wanted < _NORMAL, up, nearest).astype(np.float32)
    return np.where(np.isfinite(chosen), chosen, scale).astype(np.float32)


def fit_scales(graph: ir.Graph, kept: Collection[str] = ()) -> None:
    """Rewrite the scales of QuantizeLinear and DequantizeLinear nodes, and the integers that go with them.

    Nodes named in `kept` stay FP32: their scales are as they were, but for those that others share.
    """
    originals: dict[str, npt.NDArray[Any]] = {}
    for node in graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.name in kept:
            continue
        scale = node.inputs[1]
        if scale is None or scale.const_value is None:
            continue
        name = scale.name or ""
        if name not in originals:
            originals[name] = scale.const_value.numpy()
            scale.const_value = ir.tensor(fp16_scale(originals[name]), name=name)
        stored = node.inputs[0]
        if stored is not None and stored.const_value is not None:
            _requantize(node, stored, originals[name], scale.const_value.numpy())


def _requantize(node: ir.Node, stored: ir.Value, old: npt.NDArray[Any], new: npt.NDArray[Any]) -> None:
    assert stored.const_value is not None
    integers = stored.const_value.numpy()
    if integers.dtype != np.int8:
        return  # a bias in int32 or an 8-bit float, whose scales are made exact when they are chosen
    ratio = old.astype(np.float64) / new.astype(np.float64)
    ratio = along(ratio, scale_axis(node), integers.ndim)
    again = np.clip(np.rint(integers.astype(np.float64) * ratio), -127, 127).astype(np.int8)
    stored.const_value = ir.tensor(again, name=stored.name)
