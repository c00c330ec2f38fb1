"""Make a randomly initialised network behave like a trained one: finite, input-dependent logits at any depth."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SEED = 0  # of every random initialisation


def settle_batchnorm(module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Set every BatchNorm's running mean and variance to those measured on noise; `input_shape` is `(C, H, W)`.

    With the initial mean 0 and variance 1 nothing is normalised in evaluation mode, and every residual block doubles
    the variance: the logits of a fresh ResNet-152 are near 1e9, which overflows FP16 and drowns any comparison.
    Noise comes from torch's global generator. The module is left in evaluation mode.
    """
    norms = [layer for layer in module.eval().modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.train().momentum = 1.0  # the running statistics become those of this one batch
    try:
        if norms:
            with torch.no_grad():
                module(torch.randn(2, *input_shape))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.eval().momentum = momentum
