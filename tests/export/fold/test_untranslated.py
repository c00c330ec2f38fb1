"""What torch translates to ONNX wrongly or not at all, such as average pools with a divisor of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from resnetrt.export.fold.graph import trace
from resnetrt.export.trace.trace import write_onnx
from resnetrt.export.variants.parity import run_onnx
from resnetrt.runtime.backends.openvino import properties, shared_core


@st.composite
def pools(draw: st.DrawFn) -> nn.AvgPool2d:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    return nn.AvgPool2d(
        kernel,
        stride=(draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        padding=(draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))),
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
        divisor_override=draw(st.integers(1, 12)),
    )


@settings(max_examples=60, deadline=None)
@given(pool=pools(), height=st.integers(4, 9), width=st.integers(4, 9))
def test_the_rewritten_program_pools_alike(pool: nn.AvgPool2d, height: int, width: int):
    program = trace(pool, torch.randn(2, 3, height, width))
    images = torch.randn(3, 3, height, width)
    assert not any(node.args[6:] for node in program.graph.nodes if "avg_pool" in str(node.target))
    torch.testing.assert_close(program.module()(images), pool(images))


@pytest.mark.parametrize("ceil", [False, True])
def test_the_file_divides_as_eager_does(tmp_path: Path, ceil: bool):
    """It divided by the window's size: 25 % too much here."""
    pool = nn.AvgPool2d(2, 2, ceil_mode=ceil, divisor_override=5)
    images = torch.randn(4, 3, 7, 7)
    write_onnx(trace(pool, images), tmp_path / "pool.onnx")
    values = run_onnx(tmp_path / "pool.onnx", images.numpy(), as_written=True)
    np.testing.assert_allclose(values, pool(images).numpy(), rtol=1e-5, atol=1e-6)


def test_a_normalisation_behind_it_hides_the_size_no_more(tmp_path: Path):
    """1.5e-4 of the logits were left of it, at the edge of the tolerance."""

    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.avg_pool2d(x, 2, divisor_override=5)
            return (x / (x.abs().amax((1, 2, 3), keepdim=True) + 0.01)).mean((2, 3))

    images = torch.randn(4, 3, 8, 8)
    write_onnx(trace(Normalised(), images), tmp_path / "pool.onnx")
    values = run_onnx(tmp_path / "pool.onnx", images.numpy(), as_written=True)
    np.testing.assert_allclose(values, Normalised()(images).numpy(), rtol=1e-5, atol=1e-6)


class LogSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.logsigmoid(x).mean(3)


def test_the_logarithm_of_a_sigmoid_reaches_far(tmp_path: Path):
    """Log(Sigmoid(x)) is minus infinity below -103, and 0 from 17 on."""
    images = torch.linspace(-300, 30, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    write_onnx(trace(LogSigmoid(), images), tmp_path / "log.onnx")
    values = run_onnx(tmp_path / "log.onnx", images.numpy(), as_written=True)
    np.testing.assert_allclose(values, LogSigmoid()(images).numpy(), rtol=1e-5, atol=1e-7)


class Resized(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, mode="nearest", **self.options)


@pytest.mark.parametrize(
    "options",
    [{"size": (7, 4)}, {"scale_factor": 0.7}, {"scale_factor": (1.5, 2.0)}, {"size": (33, 57)}, {"scale_factor": 2.0}],
)
def test_a_nearest_resize_takes_the_pixels_that_eager_takes(options: dict[str, Any], tmp_path: Path):
    images = torch.randn(2, 3, 20, 28)
    write_onnx(trace(Resized(**options), images), tmp_path / "resized.onnx")
    values = run_onnx(tmp_path / "resized.onnx", images.numpy(), as_written=True)
    np.testing.assert_array_equal(values, Resized(**options)(images).numpy())
    kept = any(node.op_type == "Resize" for node in onnx.load(tmp_path / "resized.onnx").graph.node)
    assert kept == (options == {"scale_factor": 2.0}), "a whole number is left to the backends' own operator"


class Attention(nn.Module):
    """Over pixels, without an axis for heads."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.mask = torch.randn(2, 16, 16)[:1] if masked else None

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(pixels, pixels * 2, pixels + 1, self.mask, scale=0.3)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_heads(masked: bool, tmp_path: Path):
    module, images = Attention(masked), torch.randn(2, 3, 4, 4)
    write_onnx(trace(module, images), tmp_path / "attention.onnx")
    values = run_onnx(tmp_path / "attention.onnx", images.numpy(), as_written=True)
    np.testing.assert_allclose(values, module(images).numpy(), rtol=1e-4, atol=1e-5)


def test_instance_norm_with_running_statistics_is_batch_norm(tmp_path: Path):
    """Behind an activation it can't be folded; in OpenVINO, of a file for any batch, it was 9 % off."""
    norm = small_models.randomize(nn.InstanceNorm2d(3, affine=True, track_running_stats=True))
    module, images = nn.Sequential(nn.ReLU(), norm).eval(), torch.randn(5, 3, 6, 6)
    write_onnx(trace(module, images), tmp_path / "norm.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "norm.onnx").graph.node] == ["Relu", "BatchNormalization"]
    compiled = shared_core().compile_model(
        shared_core().read_model(tmp_path / "norm.onnx"), "CPU", properties("fp32", 1)
    )
    for values in (run_onnx(tmp_path / "norm.onnx", images.numpy(), as_written=True), compiled([images.numpy()])[0]):
        np.testing.assert_allclose(values, module(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_pool_behind_another_order_of_axes_gathers_nothing(tmp_path: Path):
    """OpenVINO gathered other elements where the batch size was free."""

    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.pool = nn.LayerNorm(6), nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).flatten(1)

    images, module = torch.randn(3, 6, 5, 5), Permuted().eval()
    write_onnx(trace(module, images), tmp_path / "pool.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "pool.onnx").graph.node}
    assert "ReduceMean" in operators
    assert operators.isdisjoint({"Gather", "Range"})
    compiled = shared_core().compile_model(
        shared_core().read_model(tmp_path / "pool.onnx"), "CPU", properties("fp32", 1)
    )
    np.testing.assert_allclose(compiled([images.numpy()])[0], module(images).detach().numpy(), rtol=1e-4, atol=1e-6)
