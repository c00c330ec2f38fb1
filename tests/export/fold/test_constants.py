"""Weights that forward computes from parameters are plain weights in the file; what depends on the image is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_models import Chain, StandardizedConv, randomize
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from resnetrt.export.fold.constants import settle_constants
from resnetrt.export.fold.graph import trace
from resnetrt.export.trace.trace import write_onnx
from resnetrt.export.variants.parity import run_onnx

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class BatchStandardizedConv(nn.Conv2d):
    """Weight standardization by a batch_norm over the weight, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = nn.functional.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return nn.functional.conv2d(x, weight, self.bias)


class TiedNorm(nn.Module):
    """One convolution with weight_norm that runs twice, and a head with one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))
        self.aux = nn.utils.weight_norm(nn.Linear(3, 2))
        self.aux(torch.zeros(1, 3))  # leaves a tensor with a gradient, which can't be copied

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu()).mean((2, 3))


class ScaledParameter(nn.Module):
    """A tensor computed from a parameter once, kept on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4))
        self.scale = 2 * self.gain

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * self.scale


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight standardization": lambda: Chain(StandardizedConv(3, 4, 3), nn.ReLU(), StandardizedConv(4, 4, 1)),
    "by a batch_norm": lambda: Chain(BatchStandardizedConv(3, 4, 3), nn.BatchNorm2d(4)),
    "weight_norm": lambda: Chain(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
    "spectral_norm": lambda: Chain(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
    "spectral_norm by hooks": lambda: Chain(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))),
    "orthogonal": lambda: Chain(parametrizations.orthogonal(nn.Conv2d(3, 4, 3))),
    "tied and unused": TiedNorm,
    "kept on the module": ScaledParameter,
    "beyond the exporter's own limit": lambda: Chain(nn.Conv2d(3, 512, 1), StandardizedConv(512, 512, 3)),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_computed_weights_are_plain_weights_in_the_file(case: str, tmp_path: Path):
    net = randomize(NETWORKS[case]())
    program = trace(net, IMAGES[:2])
    settle_constants(program)
    write_onnx(program, tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    stored = {tensor.name for tensor in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert convs
    assert all(node.input[1] in stored for node in convs)
    assert not {node.op_type for node in graph.node} - {"Conv", "Relu", "BatchNormalization", "Mul"} & {"Sub", "Div"}
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(tmp_path / "net.onnx", IMAGES.numpy()), net(IMAGES).numpy(), atol=1e-5)


def test_the_module_keeps_its_own_parameters():
    net = randomize(Chain(StandardizedConv(3, 4, 3)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    program = trace(net, IMAGES[:2])
    settle_constants(program)
    assert program.state_dict.keys() == before.keys()
    assert not torch.equal(program.state_dict["layers.0.weight"], before["layers.0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class ChangesItsBuffer(nn.Module):
    """The scale is read after it was doubled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.clone()
        scale.mul_(2)
        return x.mean((2, 3)) * scale


class RandomWeight(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * torch.rand(3)


@pytest.mark.parametrize("make", [ChangesItsBuffer, RandomWeight])
def test_what_changes_or_is_drawn_stays_computed(make: Callable[[], nn.Module]):
    program = trace(make().eval(), IMAGES[:2])
    before = [node.name for node in program.graph.nodes]
    settle_constants(program)
    assert [node.name for node in program.graph.nodes] == before
