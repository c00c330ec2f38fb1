"""Fold BatchNorm into the convolution before it, in float64, and certify the result.

In evaluation mode BN(conv(x)) = gamma (W x + b - mean)/sqrt(var + eps) + beta (Ioffe and Szegedy 2015), which is the
convolution with W' = W s and b' = (b - mean) s + beta, s = gamma/sqrt(var + eps), per output channel.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from resnetrt.errors import CheckFailed
from resnetrt.export.graph import FoldPair, KeptBatchNorm, find_pairs, trace

MAX_RELATIVE_ERROR = 1e-5


@dataclass(frozen=True)
class ConvCertificate:
    """What folding did to one convolution, measured on real activations.

    `max_relative_error` is max |folded - original| / max |original| over the layer's output; `max_ulp` is the largest
    error in units in the last place of float32 at the magnitude of that output channel's peak. `weight_range_ratio` is
    max |W'| / max |W|; `channel_spread` the largest over the smallest per-channel max |W'| of live channels.
    `dead_channels` have s = 0 (their output is constant); `tiny_variance_channels` have var <= eps, so that eps and not
    the data decides their scale.
    """

    conv: str
    batch_norm: str
    max_relative_error: float
    max_ulp: float
    weight_range_ratio: float
    channel_spread: float
    dead_channels: list[int]
    tiny_variance_channels: list[int]


@dataclass(frozen=True)
class FoldResult:
    """The folded copy (evaluation mode), its certificates, and the BatchNorms that were kept."""

    module: nn.Module
    certificates: list[ConvCertificate]
    kept: list[KeptBatchNorm]

    def to_json(self) -> dict[str, Any]:
        """The content of `fold.json`."""
        worst = max((c.max_relative_error for c in self.certificates), default=0.0)
        return {
            "folded": len(self.certificates),
            "max_relative_error": worst,
            "convolutions": [asdict(c) for c in self.certificates],
            "kept": [asdict(k) for k in self.kept],
        }


def fold_batch_norms(module: nn.Module, images: Tensor) -> FoldResult:
    """Fold every foldable BatchNorm of a copy of `module`; `images` `(N >= 2, C, H, W)`, float32, are real inputs.

    Raises `CheckFailed` when a folded layer differs from the original by more than `MAX_RELATIVE_ERROR`.
    """
    module = module.eval()
    pairs, kept = find_pairs(trace(module, images[:2]), module)
    folded = copy.deepcopy(module)
    for pair in pairs:
        _fold_pair(folded, pair)
    certificates = [] if not pairs else _certify(module, folded, pairs, images)
    for certificate in certificates:
        if not certificate.max_relative_error <= MAX_RELATIVE_ERROR:
            raise CheckFailed(
                f"folding {certificate.batch_norm} into {certificate.conv} changed its output by "
                f"{certificate.max_relative_error:.1e} relative, expected at most {MAX_RELATIVE_ERROR:.0e}; "
                f"look at its weights and running variance"
            )
    return FoldResult(folded, certificates, kept)


def folded_parameters(conv: _ConvNd, batch_norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """float64 weight and bias of the folded convolution."""
    scale, mean = _scale(batch_norm), batch_norm.running_mean
    assert mean is not None
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    shift = 0.0 if batch_norm.bias is None else batch_norm.bias.detach().double()
    per_output = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * per_output, (bias - mean.double()) * scale + shift


def _scale(batch_norm: _BatchNorm) -> Tensor:
    assert batch_norm.running_var is not None
    deviation = torch.sqrt(batch_norm.running_var.double() + batch_norm.eps)
    gamma = 1.0 if batch_norm.weight is None else batch_norm.weight.detach().double()
    return gamma / deviation


def _fold_pair(module: nn.Module, pair: FoldPair) -> None:
    conv, batch_norm = _layers(module, pair)
    weight, bias = folded_parameters(conv, batch_norm)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    _replace(module, batch_norm, nn.Identity())


def _layers(module: nn.Module, pair: FoldPair) -> tuple[_ConvNd, _BatchNorm]:
    conv, batch_norm = module.get_submodule(pair.conv), module.get_submodule(pair.batch_norm)
    assert isinstance(conv, _ConvNd)
    assert isinstance(batch_norm, _BatchNorm)
    return conv, batch_norm


def _replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` stands: a module can bear several names, and any of them may be the one called."""
    for parent in module.modules():
        for name, child in list(parent._modules.items()):  # named_children names a module only once
            if child is old:
                setattr(parent, name, new)


@torch.no_grad()
def _certify(original: nn.Module, folded: nn.Module, pairs: list[FoldPair], images: Tensor) -> list[ConvCertificate]:
    """Run the original once; at every pair run the folded convolution on the very input the original one got."""
    inputs: dict[str, Tensor] = {}
    certificates: dict[str, ConvCertificate] = {}
    hooks = []

    def keep_input(pair: FoldPair) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
            inputs[pair.conv] = args[0] if args else options["input"]

        return hook

    def compare(pair: FoldPair) -> Any:
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            actual = folded.get_submodule(pair.conv)(inputs.pop(pair.conv))
            certificates[pair.conv] = _certificate(original, folded, pair, output, actual)

        return hook

    for pair in pairs:
        hooks.append(original.get_submodule(pair.conv).register_forward_pre_hook(keep_input(pair), with_kwargs=True))
        hooks.append(original.get_submodule(pair.batch_norm).register_forward_hook(compare(pair)))
    try:
        original(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [certificates[pair.conv] for pair in pairs]


def _certificate(
    original: nn.Module, folded: nn.Module, pair: FoldPair, expected: Tensor, actual: Tensor
) -> ConvCertificate:
    conv, batch_norm = _layers(original, pair)
    assert batch_norm.running_var is not None
    error = (actual.double() - expected.double()).abs().transpose(0, 1).flatten(1).amax(1).numpy()
    peak = expected.abs().transpose(0, 1).flatten(1).amax(1).numpy()
    before = conv.weight.detach().abs().amax().item()
    channels = folded.get_parameter(f"{pair.conv}.weight").abs().flatten(1).amax(1)
    live = channels[channels > 0]
    return ConvCertificate(
        conv=pair.conv,
        batch_norm=pair.batch_norm,
        max_relative_error=float(error.max() / max(float(peak.max()), np.finfo(np.float32).tiny)),
        max_ulp=float((error / np.spacing(np.maximum(peak, np.finfo(np.float32).tiny))).max()),
        weight_range_ratio=channels.amax().item() / before if before > 0 else 0.0,
        channel_spread=(live.amax() / live.amin()).item() if len(live) else 0.0,
        dead_channels=torch.nonzero(_scale(batch_norm) == 0).flatten().tolist(),
        tiny_variance_channels=torch.nonzero(batch_norm.running_var <= batch_norm.eps).flatten().tolist(),
    )
