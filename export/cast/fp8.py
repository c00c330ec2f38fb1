"""FP8 Q/DQ (E4M3) for TensorRT, at the places where the INT8 variant in TensorRT's dialect has its pairs.

Activations are scaled per tensor, weights per output channel, both by amax / 448, the largest E4M3 number (ONNX
QuantizeLinear-19; Micikevicius et al. 2022, arXiv:2209.05433). Biases stay float.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.bundle import CALIBRATE
from resnetrt.errors import UsageError
from resnetrt.export.cast.fit_scales import fp16_scale
from resnetrt.export.variants.qdq import along, insert_pair, scale_axis, store_quantized

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0


def insert_fp8(graph: ir.Graph, placement: ir.Graph, amax: Mapping[str, float]) -> None:
    """Put FP8 pairs into the float `graph` where `placement`, its INT8 version, has int8 ones.

    `amax` is the largest magnitude by tensor name. Raises `UsageError` for a tensor that it lacks.
    """
    values = {value.name: value for value in graph.inputs}
    values |= {output.name: output for node in graph for output in node.outputs}
    nodes = {node.name: node for node in graph}
    for node in placement:
        if node.op_type == "QuantizeLinear":
            _quantize_activation(graph, values, nodes, node, amax)
        elif node.op_type == "DequantizeLinear" and _stored(node) is not None:
            _quantize_weights(graph, nodes, node)


def to_e4m3(array: npt.NDArray[Any], scale: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array / scale` as E4M3, saturated at 448."""
    return np.asarray(np.clip(array / scale, -LARGEST, LARGEST).astype(np.float32).astype(E4M3))


def _quantize_activation(
    graph: ir.Graph,
    values: dict[str | None, ir.Value],
    nodes: dict[str | None, ir.Node],
    pattern: ir.Node,
    amax: Mapping[str, float],
) -> None:
    assert pattern.inputs[0] is not None
    name = pattern.inputs[0].name or ""
    if name not in amax:
        raise UsageError(f"the calibration record has no tensor {name}; run again: {CALIBRATE}")
    value, scale = values[name], np.asarray(max(amax[name], 1e-30) / LARGEST)
    quantized, dequantized = insert_pair(graph, value, fp16_scale(scale).reshape(()), np.zeros((), E4M3))
    quantized.dtype, quantized.shape = ir.DataType.FLOAT8E4M3FN, value.shape
    dequantized.dtype, dequantized.shape = ir.DataType.FLOAT, value.shape
    for reader in pattern.outputs[0].uses():
        for use in reader.node.outputs[0].uses():
            nodes[use.node.name].replace_input_with(use.idx, dequantized)


def _quantize_weights(graph: ir.Graph, nodes: dict[str | None, ir.Node], pattern: ir.Node) -> None:
    axis = scale_axis(pattern)
    for use in pattern.outputs[0].uses():
        layer = nodes[use.node.name]
        weight = layer.inputs[use.idx]
        if use.idx != 1 or weight is None or weight.const_value is None:
            continue
        array = weight.const_value.numpy().astype(np.float64)
        others = tuple(index for index in range(array.ndim) if index != axis)
        amax = np.abs(array).max(others)
        scale = fp16_scale(np.where(amax > 0, amax / LARGEST, 1.0))
        stored = to_e4m3(array, along(scale, axis, array.ndim))
        dequantized = store_quantized(graph, layer, 1, stored, scale, axis)
        dequantized.dtype, dequantized.shape = ir.DataType.FLOAT, weight.shape


def _stored(node: ir.Node) -> ir.Value | None:
    value = node.inputs[0]
    return value if value is not None and value.const_value is not None else None
