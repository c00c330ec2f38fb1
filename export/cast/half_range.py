"""Which layers do not fit FP16's range and stay FP32, each with the reason.

FP16 holds 2**-24 (subnormal) to 65504. A layer stays FP32 if a weight is larger, if rounding destroys one of its output
channels, or if a recorded activation at its input or output does not fit. Single weights that round to zero are no
loss: in a large layer with normally distributed weights some always do.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.export.cast.half_types import HALF_OPERATORS, HalfType
from resnetrt.export.variants.qdq import WEIGHTED, along, output_axis, scale_axis

_CHANNEL_LOSS = 2.0**-8  # rounding of normal numbers loses at most 2**-11 of a channel
_HALF_STEP = 2.0**-25
_HEADROOM = 2.0  # other images may reach further than those of the calibration record
_COARSE = 2.0**8  # an activation is kept out of the lowest 8 bits of the subnormal range

Array = npt.NDArray[np.float64]


def layers_out_of_range(graph: ir.Graph, half: HalfType, amax: Mapping[str, float]) -> dict[str, str]:
    """Node name to the reason why it stays FP32; `amax` has the largest magnitude of activations by tensor name."""
    kept: dict[str, str] = {}
    for node in graph:
        reason = _operator_reason(node) or _weights_reason(node, half, amax)
        if reason:
            kept.setdefault(node.name or "", reason)
    for value, magnitude in _activations(graph, amax):
        reason = _activation_reason(value, magnitude, half)
        if reason:
            for node in _around(value, half, amax):
                kept.setdefault(node.name or "", reason)
    for node in reversed(graph):  # what a layer that stays FP32 reads is quantized from FP32 and dequantized to it
        users = [use.node.name for use in node.outputs[0].uses()]
        quantizes = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if quantizes and users and all(name in kept for name in users):
            kept.setdefault(node.name or "", kept[users[0] or ""])
    return kept


def constant(value: ir.Value | None) -> Array | None:
    """The float content of an initializer, or of an integer one behind a DequantizeLinear; None if it is computed."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy().astype(np.float64) if value.dtype == ir.DataType.FLOAT else None
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    stored, scale = (item.const_value if item is not None else None for item in producer.inputs[:2])
    if stored is None or scale is None:
        return None
    integers, scales = stored.numpy().astype(np.float64), scale.numpy().astype(np.float64)
    return np.asarray(integers * along(scales, scale_axis(producer), integers.ndim))


def _operator_reason(node: ir.Node) -> str | None:
    if node.op_type in HALF_OPERATORS or node.op_type in ("Constant", "Cast"):
        return None
    values = (*node.inputs, *node.outputs)
    floats = any(value is not None and value.dtype == ir.DataType.FLOAT for value in values)
    return f"operator {node.op_type} is not known to compute in 16 bits" if floats else None


def _weights_reason(node: ir.Node, half: HalfType, amax: Mapping[str, float]) -> str | None:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return None  # scales, not weights
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is None or not array.size:
            continue
        assert value is not None
        largest = float(np.abs(array).max())
        if largest > half.largest:
            return f"{value.name}: a weight of magnitude {largest:.3g} is beyond {half.largest:.6g}"
        if index == 1 or node.op_type not in WEIGHTED:
            lost = _lost_channels(node, array, half, amax) if node.op_type in WEIGHTED else _is_lost(array, half)
            if lost:
                smallest = float(np.abs(array[array != 0]).min())
                return f"{value.name}: {lost} output channels vanish in {half.name} (smallest weight {smallest:.2g})"
    return None


def _is_lost(array: Array, half: HalfType) -> int:
    error = array - array.astype(half.numpy).astype(np.float64)
    return int(np.linalg.norm(error) > _CHANNEL_LOSS * np.linalg.norm(array))


def _lost_channels(node: ir.Node, weights: Array, half: HalfType, amax: Mapping[str, float]) -> int:
    """How many output channels lose more than rounding does, and so much that their FP16 output would change."""
    rows = np.moveaxis(weights, output_axis(node, weights.ndim), 0)
    rows = rows.reshape(len(rows), -1)
    errors = rows - rows.astype(half.numpy).astype(np.float64)
    lost = np.linalg.norm(errors, axis=1) > _CHANNEL_LOSS * np.linalg.norm(rows, axis=1)
    if not lost.any():
        return 0
    reach = amax.get(_original(node.inputs[0]), math.inf) if node.inputs[0] is not None else math.inf
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    steps = np.abs(bias).ravel() * 2.0**-11 if bias is not None and bias.size == len(rows) else np.zeros(len(rows))
    change = np.abs(errors[lost]).sum(1) * reach
    return int((change > np.maximum(steps[lost], _HALF_STEP)).sum())


def _activations(graph: ir.Graph, amax: Mapping[str, float]) -> Iterator[tuple[ir.Value, float]]:
    """Every value whose largest magnitude is known: recorded, or the limit of a quantized tensor."""
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear" and constant(value) is None:
            scale = producer.inputs[1].const_value if producer.inputs[1] is not None else None
            if scale is not None and producer.inputs[0] is not None and producer.inputs[0].dtype == ir.DataType.INT8:
                yield value, 127 * float(scale.numpy().max())
        elif value.name in amax:
            yield value, amax[value.name or ""]


def _activation_reason(value: ir.Value, magnitude: float, half: HalfType) -> str | None:
    if magnitude * _HEADROOM > half.largest:
        return f"activation {value.name} reaches {magnitude:.3g}, beyond {half.largest:.6g} / {_HEADROOM:g}"
    if 0 < magnitude < half.smallest * _COARSE:
        return f"activation {value.name} reaches only {magnitude:.2g}, too little for {half.name}"
    return None


def _around(value: ir.Value, half: HalfType, amax: Mapping[str, float]) -> Iterator[ir.Node]:
    """The nodes that compute and that read `value`, on to the next layer or to a value that is known to fit."""
    above = [value.producer()]
    while above:
        node = above.pop()
        if node is None:
            continue
        yield node
        if node.op_type not in (*WEIGHTED, "DequantizeLinear"):
            inputs = (item for item in node.inputs if item is not None and not _fits(item, half, amax))
            above += [item.producer() for item in inputs]
    below = [use.node for use in value.uses()]
    while below:
        node = below.pop()
        yield node
        if node.op_type not in (*WEIGHTED, "QuantizeLinear"):
            outputs = (item for item in node.outputs if not _fits(item, half, amax))
            below += [use.node for item in outputs for use in item.uses()]


def _fits(value: ir.Value, half: HalfType, amax: Mapping[str, float]) -> bool:
    name = value.name or ""
    return name in amax and _activation_reason(value, amax[name], half) is None


def _original(value: ir.Value) -> str:
    """The name of the float tensor that a dequantized one stands for."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear" and producer.inputs[0] is not None:
        quantize = producer.inputs[0].producer()
        if quantize is not None and quantize.inputs[0] is not None:
            return quantize.inputs[0].name or ""
    return value.name or ""
