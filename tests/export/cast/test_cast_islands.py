"""16-bit islands in an INT8 file: what becomes 16 bits, what stays as it was, and what does not fit."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import make_bundle

from resnetrt.export.cast.cast import rounded_outputs
from resnetrt.export.cast.islands import cast_carrier, cast_islands
from resnetrt.golden import Golden
from resnetrt.parity import sqnr_db

ELEMENTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture
def mixed(tmp_path):
    """The tiny network with its `stem` in INT8; the block's convolution, its add and the rest are float."""
    bundle = make_bundle(tmp_path / "tiny.bundle")
    model = onnx.load(bundle.variant_file("fp32"))
    graph = model.graph
    stem = next(node for node in graph.node if node.name == "stem")
    weight = next(item for item in graph.initializer if item.name == stem.input[1])
    values = numpy_helper.to_array(weight)
    scale = np.float32(np.abs(values).max() / 127)
    weight.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), weight.name))
    constants = {"w.scale": scale, "w.zero": np.int8(0), "x.scale": np.float32(0.0173), "x.zero": np.uint8(100)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    quantizers = [
        helper.make_node("QuantizeLinear", ["input", "x.scale", "x.zero"], ["x.q"], "x.quantize"),
        helper.make_node("DequantizeLinear", ["x.q", "x.scale", "x.zero"], ["x.dq"], "x.dequantize"),
        helper.make_node("DequantizeLinear", [weight.name, "w.scale", "w.zero"], ["w.dq"], "w.dequantize"),
    ]
    stem.input[0], stem.input[1] = "x.dq", "w.dq"
    nodes = [*quantizers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    path = tmp_path / "mixed.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return bundle, path


def types(path):
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    known = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    known |= {item.name: item.data_type for item in model.graph.initializer}
    return model, {node.name: known[node.output[0]] for node in model.graph.node}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_only_the_island_is_16_bits(mixed, precision):
    bundle, path = mixed
    before = onnx.load(path)
    path.write_bytes(cast_islands(path, precision, {"conv", "add"}, {}))
    model, kinds = types(path)
    half = ELEMENTS[precision]
    assert {kinds[name] for name in ("conv", "add", "relu", "pool", "flatten")} == {half}
    assert {kinds[name] for name in ("stem", "stem.relu", "fc")} == {TensorProto.FLOAT}
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["Cast"] == 2, "in behind the stem, out before fc"
    old = {item.name: item for item in before.graph.initializer}
    for item in model.graph.initializer:
        if item.name.startswith(("w.", "x.", "stem.", "fc.")):
            assert np.array_equal(numpy_helper.to_array(item), numpy_helper.to_array(old[item.name]))
    assert sqnr_db(Golden.of(bundle).logits, rounded_outputs(bundle, path)) > 20


def test_a_layer_that_does_not_fit_fp16_stays_fp32(mixed):
    _, path = mixed
    reaches = onnx.load(path)
    conv = next(node for node in reaches.graph.node if node.name == "conv")
    path.write_bytes(cast_islands(path, "fp16", {"conv", "add"}, {conv.output[0]: 60000.0}))
    _, kinds = types(path)
    assert kinds["conv"] == TensorProto.FLOAT


def test_a_carrier_is_16_bits_everywhere(mixed):
    _, path = mixed
    path.write_bytes(cast_carrier(path, "fp16", {}))
    model, kinds = types(path)
    assert {kinds[name] for name in ("stem", "conv", "add", "pool")} == {TensorProto.FLOAT16}
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert {i.data_type for i in model.graph.initializer if i.name in scales} == {TensorProto.FLOAT16}
