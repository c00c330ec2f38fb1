"""The kit of every rewrite to a precision: axes of weights and scales, pairs, stored constants."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from resnetrt.export.variants.nodes import serialised
from resnetrt.export.variants.parity import run_onnx
from resnetrt.export.variants.qdq import along, insert_pair, output_axis, scale_axis, store_quantized

WEIGHTS = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape", "axis"),
    [
        ("Conv", {}, (7, 3, 3, 3), 0),
        ("Gemm", {"transB": 1}, (7, 3), 0),
        ("Gemm", {}, (3, 7), 1),
        ("MatMul", {}, (3, 7), 1),
        ("MatMul", {}, (2, 3, 7), 2),
    ],
)
def test_outputs_are_counted_along_one_axis_of_the_weights(operator: str, attributes, shape, axis: int):
    node = ir.serde.deserialize_node(helper.make_node(operator, ["x", "w"], ["y"], **attributes))
    assert (output_axis(node, len(shape)), shape[output_axis(node, len(shape))]) == (axis, 7)


def test_the_axis_of_scales_is_written_or_onnx_default():
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"])
    assert scale_axis(ir.serde.deserialize_node(node)) == 1
    node.attribute.append(helper.make_attribute("axis", 0))
    assert scale_axis(ir.serde.deserialize_node(node)) == 0


def test_scales_stand_along_their_axis():
    assert along(np.arange(3), 1, 4).shape == (1, 3, 1, 1)
    assert along(np.arange(3), -1, 2).shape == (1, 3)
    assert along(np.arange(1), 3, 2).shape == (1, 1)
    assert along(np.float32(2), 0, 4).shape == ()


def chain() -> ir.Model:
    """Two MatMuls that read the same weights."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"], "first"),
        helper.make_node("MatMul", ["hidden", "w"], ["y"], "second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(WEIGHTS, "w")])
    opsets = [helper.make_opsetid("", 17)]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_layers_that_share_weights_store_their_own():
    model = chain()
    first, second = model.graph[0], model.graph[1]
    scales = (np.abs(WEIGHTS).max(0) / 127).astype(np.float32)
    stored = np.rint(WEIGHTS / scales).astype(np.int8)
    store_quantized(model.graph, first, 1, stored, scales, 1)
    assert "w" in model.graph.initializers
    store_quantized(model.graph, second, 1, stored, 2 * scales, 1)
    assert "w" not in model.graph.initializers
    assert {"w.quantized", "second/w.quantized"} <= set(model.graph.initializers)
    weights = stored * scales
    values = run_onnx(serialised(model), X, as_written=True)
    np.testing.assert_allclose(values, X @ weights @ (2 * weights), rtol=1e-4)


@pytest.mark.parametrize("name", ["x", "hidden"])
def test_a_pair_rounds_what_is_led_through_it(name: str):
    model = chain()
    graph = model.graph
    value = graph.inputs[0] if name == "x" else graph[0].outputs[0]
    uses = list(value.uses())
    _, dequantized = insert_pair(graph, value, np.float32(0.5), np.array(0, np.int8))
    for use in uses:
        use.node.replace_input_with(use.idx, dequantized)
    graph.sort()
    rounded = {"x": np.rint(X / 0.5) * 0.5 @ WEIGHTS @ WEIGHTS, "hidden": np.rint(X @ WEIGHTS / 0.5) * 0.5 @ WEIGHTS}
    np.testing.assert_allclose(run_onnx(serialised(model), X, as_written=True), rounded[name], rtol=1e-4, atol=1e-5)
