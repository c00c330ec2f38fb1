"""Pools in ceil mode give what eager gives, in every backend that is here."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnetrt.export.graph import trace
from resnetrt.export.onnx_parity import run_onnx
from resnetrt.export.trace import write_onnx
from resnetrt.runtime.backends.openvino import properties, shared_core

Pool = nn.AvgPool2d | nn.MaxPool2d


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    if draw(st.booleans()):
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode=True, count_include_pad=draw(st.booleans()))


def check(pool: Pool, height: int, width: int, path: Path) -> None:
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    write_onnx(trace(pool, images), path)
    nodes = onnx.load(path).graph.node
    assert not any(item.name == "ceil_mode" and item.i for node in nodes for item in node.attribute)
    compiled = shared_core().compile_model(shared_core().read_model(path), "CPU", properties("fp32", 1))
    for found in (run_onnx(path, images.numpy(), as_written=True), compiled([images.numpy()])[0]):
        np.testing.assert_allclose(found, pool(images).numpy(), rtol=1e-5, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(pool=pools(), height=st.integers(4, 9), width=st.integers(4, 9))
def test_any_pool(pool: Pool, height: int, width: int, tmp_path_factory: pytest.TempPathFactory):
    check(pool, height, width, tmp_path_factory.mktemp("pool") / "pool.onnx")


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        # the last window would begin in the padding: ONNX's shape inference counts it
        (nn.MaxPool2d(3, 3, (1, 0), ceil_mode=True), (32, 32)),
        (nn.AvgPool2d(2, 2, (1, 0), ceil_mode=True, count_include_pad=False), (13, 12)),
        # OpenVINO divided the last windows by other numbers
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (8, 8)),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (8, 8)),
        (nn.AvgPool2d(2, 2, ceil_mode=True), (7, 9)),
    ],
)
def test_pools_that_went_wrong(pool: Pool, size: tuple[int, int], tmp_path: Path):
    check(pool, *size, tmp_path / "pool.onnx")
