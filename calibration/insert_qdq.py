"""Write Q/DQ pairs, integer weights and biases into a float graph (ONNX QuantizeLinear/DequantizeLinear)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.calibration.ranges import QuantParams
from resnetrt.calibration.round_weights import quantize_weights
from resnetrt.calibration.structure import weighted_layers

_INT32_MAX = 2**31 - 1


def insert_activation_pairs(
    graph: ir.Graph, params: dict[str, QuantParams], keep_float: frozenset[str] = frozenset()
) -> None:
    """Put a QuantizeLinear/DequantizeLinear pair behind each named value; its consumers read the result.

    Nodes named in `keep_float` go on reading the float value.
    """
    values = {value.name: value for value in graph.inputs}
    values |= {output.name: output for node in graph for output in node.outputs}
    first = graph[0]
    for name, chosen in params.items():
        value = values[name]
        uses = [use for use in value.uses() if use.node.name not in keep_float]
        scale = _initializer(graph, f"{name}.scale", np.float32(chosen.scale))
        zero = _initializer(graph, f"{name}.zero_point", np.array(chosen.zero_point, chosen.dtype))
        quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}.quantize")
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero], name=f"{name}.dequantize")
        quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}.quantized", f"{name}.dequantized"
        producer = value.producer()
        if producer is None:
            graph.insert_before(first, [quantize, dequantize])
        else:
            graph.insert_after(producer, [quantize, dequantize])
        for use in uses:
            use.node.replace_input_with(use.idx, dequantize.outputs[0])


def quantize_layers(
    graph: ir.Graph,
    input_scales: dict[str, float],
    integer_bias: bool,
    weight_max: int = 127,
    weight_method: str = "amax",
) -> None:
    """Replace the float weights of every layer in `input_scales` (layer name: scale of its input) by int8 ones.

    Weights are symmetric per output channel, scaled by `weight_method`. With `integer_bias` biases become int32 with
    scale input x weight.
    """
    for layer in weighted_layers(graph):
        if layer.name not in input_scales:
            continue
        axis = output_axis(layer)
        weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
        assert weight is not None
        assert weight.const_value is not None
        array = weight.const_value.numpy()
        least = _least_scales(bias, input_scales[layer.name], array.shape[axis]) if integer_bias else None
        integers, scales = quantize_weights(array, axis, weight_max, least, weight_method)
        layer.replace_input_with(1, _dequantized(graph, layer, f"{weight.name}", integers, scales, axis))
        _drop_if_unused(graph, weight)
        if integer_bias and bias is not None and bias.const_value is not None:
            bias_scales = (scales * np.float32(input_scales[layer.name])).astype(np.float32)
            stored = np.rint(bias.const_value.numpy().astype(np.float64) / bias_scales)
            stored = np.clip(stored, -_INT32_MAX, _INT32_MAX).astype(np.int32)
            layer.replace_input_with(2, _dequantized(graph, layer, f"{bias.name}", stored, bias_scales, 0))
            _drop_if_unused(graph, bias)


def output_axis(layer: ir.Node) -> int:
    """The axis of a Conv's or Gemm's weight that counts its outputs."""
    if layer.op_type == "Conv":
        return 0
    transposed = layer.attributes.get("transB")
    return 0 if transposed is not None and transposed.as_int() == 1 else 1


def _least_scales(bias: ir.Value | None, input_scale: float, outputs: int) -> npt.NDArray[np.float32] | None:
    """Weight scales below which the bias would not fit into int32 (a dead channel has tiny weights, not bias)."""
    if bias is None or bias.const_value is None:
        return None
    magnitude = np.abs(bias.const_value.numpy().astype(np.float64)).reshape(outputs)
    return (magnitude / (input_scale * _INT32_MAX) * (1 + 1e-6)).astype(np.float32)


def _dequantized(
    graph: ir.Graph, layer: ir.Node, name: str, integers: npt.NDArray[Any], scales: npt.NDArray[np.float32], axis: int
) -> ir.Value:
    if f"{name}.quantized" in graph.initializers:  # two layers share it, each with its own scales
        name = f"{layer.name}/{name}"
    stored = _initializer(graph, f"{name}.quantized", integers)
    scale = _initializer(graph, f"{name}.scale", scales)
    zero = _initializer(graph, f"{name}.zero_point", np.zeros(scales.shape, integers.dtype))
    node = ir.node("DequantizeLinear", [stored, scale, zero], {"axis": axis}, name=f"{name}.dequantize")
    node.outputs[0].name = f"{name}.dequantized"
    graph.insert_before(layer, node)
    return node.outputs[0]


def _initializer(graph: ir.Graph, name: str, array: npt.NDArray[Any] | np.generic) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
    graph.register_initializer(value)
    return value


def _drop_if_unused(graph: ir.Graph, value: ir.Value) -> None:
    if not value.uses() and value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]
