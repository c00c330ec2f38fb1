"""Layers that a quantized file keeps in float stay float: a backend may not quantize them by itself."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resnetrt.export.variants.parity import run_onnx
from resnetrt.runtime.backends.onnxruntime import create_native

CHANNELS, SIZE = 8, 12


def write_between_pairs(operator: str, path: Path) -> None:
    """A layer with float weights, channels of very different size, between two quantized values."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(CHANNELS, CHANNELS, 3, 3)) * np.logspace(-2, 0, CHANNELS)[:, None, None, None]
    constants = {
        "weights": weights.astype(np.float32),
        "fine": np.float32(0.02),
        "coarse": np.float32(0.1),
        "zero": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "fine", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "fine", "zero"], ["d"]),
        helper.make_node(operator, ["d", "weights"], ["layer"], "layer", pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["layer", "coarse", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "coarse", "zero"], ["logits"]),
    ]
    shape = ["batch", CHANNELS, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "logits")]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "float_layer", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_onnxruntime_leaves_float_weights_alone(operator: str, tmp_path: Path):
    """It quantized them with one scale for all channels: 27 to 31 % of the outputs fell on another step."""
    write_between_pairs(operator, tmp_path / "layer.onnx")
    images = np.random.default_rng(1).normal(size=(2, CHANNELS, SIZE, SIZE)).astype(np.float32)
    outputs = create_native(tmp_path / "layer.onnx", "cpu", 1).run(None, {"input": images})[0]
    expected = run_onnx(tmp_path / "layer.onnx", images, as_written=True)
    assert (outputs != expected).mean() < 0.002
