"""What a network costs at one input size: parameters and multiply-accumulates, counted without computing."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer: module name, MACs, parameters, output shape without the batch axis."""

    name: str
    macs: int
    parameters: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """Parameters of the whole network and MACs of its convolutions and linear layers, batch 1."""

    parameters: int
    macs: int
    layers: tuple[LayerCost, ...]

    @property
    def gmacs(self) -> float:
        """MACs in units of 1e9."""
        return self.macs / 1e9


def cost(module: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Count at batch 1 for one input `(C, H, W)`, on the meta device: nothing is computed, `module` is not changed.

    One multiply-accumulate counts once (half of the FLOPs). Convolutions and linear layers count, as in the published
    tables (ResNet-50: 4.09 GMACs); biases, BatchNorm, activations, pooling and additions do not. A layer that runs
    twice counts twice. Learnt parameters count once, running statistics do not.
    """
    layers: list[LayerCost] = []
    shadow = copy.deepcopy(module).to("meta").eval()
    for name, layer in shadow.named_modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            layer.register_forward_hook(_counter(name, layers))
    with torch.no_grad(), torch.device("meta"):
        shadow(torch.empty(1, *input_shape))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, sum(layer.macs for layer in layers), tuple(layers))


def _counter(name: str, layers: list[LayerCost]) -> Callable[[nn.Module, object, Tensor], None]:
    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        layers.append(LayerCost(name, output.numel() * _inputs_per_output(layer), parameters, tuple(output.shape[1:])))

    return count


def _inputs_per_output(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
