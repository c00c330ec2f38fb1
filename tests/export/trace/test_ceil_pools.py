"""Pools in ceil mode, written in floor mode: eager's answer and size in every backend, and in shape inference."""

from pathlib import Path
from typing import Any

import numpy as np
import odd_networks
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from resnetrt.export.audit.source import SourceGraph
from resnetrt.export.trace.ceil_pools import rewrite_ceil_pools
from resnetrt.export.variants.inner_values import InnerValues

# size, kernel, stride, padding: nothing hangs over; it does; the last window is left out; with padding
WINDOWS = [
    (8, 2, 2, 0),
    (7, 2, 2, 0),
    (7, 3, 2, 0),
    (6, 1, 4, 0),
    (8, 2, 4, 0),
    (7, 3, 3, 1),
    (6, 3, 2, 1),
    (6, 4, 3, 2),
]
POOLS = [("MaxPool", {}), ("AveragePool", {"count_include_pad": 0}), ("AveragePool", {"count_include_pad": 1})]


def model_of(operator: str, window: tuple[int, ...], **options: Any) -> onnx.ModelProto:
    size, kernel, stride, padding = window
    values = [helper.make_tensor_value_info("x", 1, ["n", 2, size, size]), helper.make_tensor_value_info("y", 1, None)]
    node = helper.make_node(
        operator, ["x"], ["y"], "pool", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4,
        ceil_mode=1, auto_pad="NOTSET", **options,
    )  # fmt: skip
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def eager_of(operator: str, window: tuple[int, ...], images: Tensor, **options: Any) -> Tensor:
    _, kernel, stride, padding = window
    if operator == "MaxPool":
        return nn.functional.max_pool2d(images, kernel, stride, padding, options.get("dilations", [1])[0], True)
    return nn.functional.avg_pool2d(images, kernel, stride, padding, True, bool(options["count_include_pad"]))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("operator", "options"), POOLS)
def test_every_backend_agrees_with_eager(operator: str, options: dict[str, Any], window: tuple[int, ...]):
    model = model_of(operator, window, **options)
    rewrite_ceil_pools(model)
    assert not any(item.name == "ceil_mode" and item.i for node in model.graph.node for item in node.attribute)
    images = torch.randn(3, 2, window[0], window[0], generator=torch.Generator().manual_seed(0)) + 1
    expected = eager_of(operator, window, images, **options).numpy()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type.shape.dim
    assert tuple(dim.dim_value for dim in inferred)[1:] == expected.shape[1:]
    blob = model.SerializeToString()
    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": images.numpy()})[0], expected, atol=1e-6)
    core = openvino.Core()
    np.testing.assert_allclose(core.compile_model(core.read_model(blob), "CPU")(images.numpy())[0], expected, atol=1e-6)


def test_a_dilated_pool_that_would_hang_over_by_more_than_its_kernel_stays():
    """ONNX Runtime takes no padding as large as the kernel."""
    window, options = (6, 2, 4, 0), {"dilations": [4, 4]}
    model = model_of("MaxPool", window, **options)
    before = model.SerializeToString()
    rewrite_ceil_pools(model)
    assert model.SerializeToString() == before
    images = torch.randn(2, 2, 6, 6)
    session = onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"])
    expected = eager_of("MaxPool", window, images, **options).numpy()
    np.testing.assert_allclose(session.run(None, {"x": images.numpy()})[0], expected)


def test_an_exported_file_says_the_sizes_that_it_has(tmp_path: Path):
    model = onnx.load(odd_networks.write_fp32("ceil_pools", tmp_path))
    said = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    images = np.zeros((2, 3, odd_networks.SIZE, odd_networks.SIZE), np.float32)
    values = InnerValues(model, said).of(images)
    assert len(said) >= 5
    assert {name: sizes[1:] for name, sizes in said.items()} == {name: [*values[name].shape[1:]] for name in said}


def test_the_audit_counts_the_work_of_a_file_that_another_tool_made(tmp_path: Path):
    """Two rows of windows, not three: the third would begin behind the image."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[N, 2, 4, 4] x) => (float[N, 3] y) <float[3, 8] w, int64[2] shape = {-1, 8}>
        { pool = MaxPool<kernel_shape = [1, 1], strides = [2, 3], ceil_mode = 1>(x)
          flat = Reshape(pool, shape) y = Gemm<transB = 1>(flat, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 8), np.float32), "w"))
    onnx.save(model, tmp_path / "net.onnx")
    assert [node.macs for node in SourceGraph.of(tmp_path / "net.onnx").mac_nodes.values()] == [8 * 3]
