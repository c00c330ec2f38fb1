"""What every rewrite of a graph to a precision shares: which layers have weights, along which axis, and Q/DQ pairs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.export.variants.nodes import add_constant, drop_unused

WEIGHTED = ("Conv", "Gemm", "MatMul")  # operators of layers; a constant second input is the weights


def output_axis(layer: ir.Node, rank: int) -> int:
    """The axis that counts the outputs in a layer's weights of `rank` axes."""
    outputs_first = layer.op_type == "Conv" or layer.attributes.get_int("transB", 0) != 0
    return 0 if outputs_first else rank - 1


def scale_axis(node: ir.Node) -> int:
    """The axis along which a QuantizeLinear or DequantizeLinear has scales; 1 is ONNX's default."""
    return node.attributes.get_int("axis", 1)


def along(values: npt.NDArray[Any], axis: int, rank: int) -> npt.NDArray[Any]:
    """`values` `(n,)` in the shape that broadcasts along `axis` of `rank` axes; a single number as it is."""
    if values.ndim == 0:
        return values
    shape = [1] * rank
    if values.size > 1:
        shape[axis] = -1
    return values.reshape(shape)


def insert_pair(
    graph: ir.Graph, value: ir.Value, scale: npt.NDArray[Any] | np.generic, zero_point: npt.NDArray[Any]
) -> tuple[ir.Value, ir.Value]:
    """Put a QuantizeLinear and a DequantizeLinear behind `value`; returns their results, which nobody reads yet."""
    name = value.name or ""
    grid = [add_constant(graph, f"{name}.scale", scale), add_constant(graph, f"{name}.zero_point", zero_point)]
    quantize = ir.node("QuantizeLinear", [value, *grid], name=f"{name}.quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *grid], name=f"{name}.dequantize")
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}.quantized", f"{name}.dequantized"
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    return quantize.outputs[0], dequantize.outputs[0]


def store_quantized(
    graph: ir.Graph, layer: ir.Node, index: int, stored: npt.NDArray[Any], scales: npt.NDArray[np.float32], axis: int
) -> ir.Value:
    """Let `layer` read `stored` times `scales` `(n,)` along `axis` in place of its constant input number `index`.

    Returns what it reads now, the output of a DequantizeLinear. A constant that nothing reads any more goes.
    """
    old = layer.inputs[index]
    assert old is not None
    name = old.name or ""
    if f"{name}.quantized" in graph.initializers:  # two layers share it, each with its own scales
        name = f"{layer.name}/{name}"
    inputs = [
        add_constant(graph, f"{name}.quantized", stored),
        add_constant(graph, f"{name}.scale", scales),
        add_constant(graph, f"{name}.zero_point", np.zeros(scales.shape, stored.dtype)),
    ]
    node = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{name}.dequantize")
    node.outputs[0].name = f"{name}.dequantized"
    graph.insert_before(layer, node)
    layer.replace_input_with(index, node.outputs[0])
    drop_unused(graph, old)
    return node.outputs[0]
