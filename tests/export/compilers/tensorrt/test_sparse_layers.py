"""Which layers have 2:4 sparse weights, in networks that TensorRT-RTX's parser made; and the streams it may use."""

import hashlib
from pathlib import Path

import network_files
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resnetrt.export.compilers import find_compiler
from resnetrt.export.compilers.tensorrt.network import sparse_layers
from resnetrt.export.compilers.tensorrt.parse import parse

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")


def counted(path: Path) -> tuple[int, int]:
    parsed = parse(trt, path)
    return sparse_layers(trt, parsed.network)


def pruned(source: Path, target: Path, axis: int = 1, only: str = "") -> Path:
    """The file with every second channel along the `axis` of its weights at zero."""
    model = onnx.load(source)
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or (only and node.name != only):
            continue
        weights = next(item for item in model.graph.initializer if item.name == node.input[1])
        values = numpy_helper.to_array(weights).copy()
        np.moveaxis(values, axis, 0)[::2] = 0
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    onnx.save(model, target)
    return target


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Two branches of convolutions with eight channels, a product, and a convolution of three channels."""
    rng = np.random.default_rng(1)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], "left", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["c"], "right"),
        helper.make_node("Add", ["b", "c"], ["d"], "add"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["logits"], "head", transB=1),
    ]
    shape = ["batch", 3, 16, 16]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [weights("w0", 8, 3, 3, 3), weights("w1", 8, 8, 3, 3), weights("w2", 8, 8, 1, 1), weights("w3", 10, 8)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "wide.onnx")
    return tmp_path / "wide.onnx"


def test_dense_weights_have_no_pattern(wide: Path):
    assert counted(wide) == (0, 4)


def test_pruned_along_the_input_channels(wide: Path, tmp_path: Path):
    # the stem has three channels, which make no four
    assert counted(pruned(wide, tmp_path / "pruned.onnx")) == (3, 4)


@pytest.mark.parametrize("only", ["left", "right", "head"])
def test_one_layer_alone(wide: Path, tmp_path: Path, only: str):
    assert counted(pruned(wide, tmp_path / "pruned.onnx", only=only)) == (1, 4)


def test_zeros_along_another_axis_are_no_pattern(wide: Path, tmp_path: Path):
    assert counted(pruned(wide, tmp_path / "pruned.onnx", axis=0)) == (0, 4)


def test_weights_that_are_quantized(wide: Path, tmp_path: Path):
    network_files.write_int8(pruned(wide, tmp_path / "pruned.onnx"), tmp_path / "int8.onnx")
    assert counted(tmp_path / "int8.onnx") == (3, 4)
    network_files.write_int8(wide, tmp_path / "dense.int8.onnx")
    assert counted(tmp_path / "dense.int8.onnx") == (0, 4)


def test_without_more_streams_rtx_builds_another_engine(tmp_path: Path):
    """Its own choice for two branches is one more stream; with none the plan is another, so the option acts."""
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["batch", 64, 16, 16]) for name in ("input", "logits")
    ]
    rng = np.random.default_rng(1)
    weights = [numpy_helper.from_array(rng.normal(size=(64, 64, 3, 3)).astype(np.float16), name) for name in "vw"]
    nodes = [
        helper.make_node("Conv", ["input", "v"], ["a"], "left", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["input", "w"], ["b"], "right", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["c"], "relu"),
        helper.make_node("Relu", ["b"], ["d"], "relu2"),
        helper.make_node("Add", ["c", "d"], ["logits"], "add"),
    ]
    graph = helper.make_graph(nodes, "branches", tensors[:1], tensors[1:], weights)
    path = tmp_path / "branches.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    rtx = find_compiler("tensorrt_rtx")

    def build(**options: int) -> str:
        return hashlib.sha256(rtx.compile_engine(path, "fp16", "sm86", options).blob).hexdigest()

    chosen = build()
    assert build(aux_streams=0) != chosen
    assert build(aux_streams=1) == chosen
