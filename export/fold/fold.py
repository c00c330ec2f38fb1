"""Fold BatchNorm into the convolution before it, in float64, and certify the result.

In evaluation mode BN(conv(x)) = gamma (W x + b - mean)/sqrt(var + eps) + beta (Ioffe and Szegedy 2015), which is the
convolution with W' = W s and b' = (b - mean) s + beta, s = gamma/sqrt(var + eps), per output channel.
"""

from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from resnetrt.errors import CheckFailed
from resnetrt.export.fold.constants import add_parameter, constants, drop_unused, settle_constants
from resnetrt.export.fold.graph import FoldPair, KeptBatchNorm, find_pairs, trace

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
    """The folded program (evaluation mode), its certificates, and the BatchNorms that were kept."""

    program: ExportedProgram
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


@dataclass(frozen=True)
class Convolution:
    """The parameters of one call of a convolution."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class BatchNorm:
    """The parameters of one call of a BatchNorm in evaluation mode."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    eps: float


def fold_batch_norms(module: nn.Module, images: Tensor) -> FoldResult:
    """Trace `module` and fold every foldable BatchNorm; `images` `(N >= 2, C, H, W)`, float32, are real inputs.

    Weights that forward computes from parameters are computed here, once; `module` stays as it is.
    Raises `CheckFailed` when it can't be traced or a folded layer differs from the original by more than
    `MAX_RELATIVE_ERROR`.
    """
    program = trace(module.eval(), images[:2])
    settle_constants(program)
    pairs, kept = find_pairs(program)
    folds = {pair: _fold(program, pair) for pair in pairs}
    certificates = _certify(program, folds, images)
    for certificate in certificates:
        if not certificate.max_relative_error <= MAX_RELATIVE_ERROR:
            raise CheckFailed(
                f"folding {certificate.batch_norm} into {certificate.conv} changed its output by "
                f"{certificate.max_relative_error:.1e} relative, expected at most {MAX_RELATIVE_ERROR:.0e}; "
                f"look at its weights and running variance"
            )
    for pair, fold in folds.items():
        _apply(program, pair, fold)
    program.graph_module.recompile()
    return FoldResult(program, certificates, kept)


def folded_parameters(conv: Convolution, batch_norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """float64 weight and bias of the folded convolution."""
    scale, mean = _scale(batch_norm), batch_norm.running_mean
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    shift = 0.0 if batch_norm.bias is None else batch_norm.bias.detach().double()
    per_output = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * per_output, (bias - mean.double()) * scale + shift


def _scale(batch_norm: BatchNorm) -> Tensor:
    deviation = torch.sqrt(batch_norm.running_var.double() + batch_norm.eps)
    gamma = 1.0 if batch_norm.weight is None else batch_norm.weight.detach().double()
    return gamma / deviation


@dataclass(frozen=True)
class _Fold:
    """The layers of a pair, and weight and bias, float32, that stand for both."""

    conv: Convolution
    batch_norm: BatchNorm
    weight: Tensor
    bias: Tensor


def _fold(program: ExportedProgram, pair: FoldPair) -> _Fold:
    values: dict[Any, Any] = {None: None, **constants(program)}
    _, weight, bias, *_ = (*pair.conv_node.args, None)
    conv = Convolution(values[weight], values[bias])
    gamma, beta, mean, variance = (values[node] for node in pair.norm_node.args[1:5])
    batch_norm = BatchNorm(gamma, beta, mean, variance, cast(float, pair.norm_node.args[7]))
    folded = folded_parameters(conv, batch_norm)
    return _Fold(conv, batch_norm, *(part.detach().to(conv.weight.dtype) for part in folded))


def _apply(program: ExportedProgram, pair: FoldPair, fold: _Fold) -> None:
    conv, image = pair.conv_node, pair.conv_node.args[0]
    rest = conv.args[3:]
    pair.norm_node.replace_all_uses_with(conv)
    program.graph.erase_node(pair.norm_node)
    conv.args = (image,)  # what the old parameters are called is free for the new ones
    drop_unused(program)
    parameters = {"weight": fold.weight, "bias": fold.bias}
    conv.args = (image, *(add_parameter(program, f"{pair.conv}.{n}", value) for n, value in parameters.items()), *rest)


class _Certifier(torch.fx.Interpreter):
    """Runs the program before folding; the folded convolution of every pair gets the very input of the original."""

    def __init__(self, program: ExportedProgram, folds: dict[FoldPair, _Fold]) -> None:
        super().__init__(program.graph_module)
        self.certificates: list[ConvCertificate] = []
        self._by_conv = {pair.conv_node: fold for pair, fold in folds.items()}
        self._by_norm = {pair.norm_node: (pair, fold) for pair, fold in folds.items()}
        self._folded: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n in self._by_conv:
            (image, _, _, *rest), fold = self._arguments(n), self._by_conv[n]
            self._folded[n] = n.target(image, fold.weight, fold.bias, *rest)  # type: ignore[operator]
        output = super().run_node(n)
        if n in self._by_norm:
            pair, fold = self._by_norm[n]
            self.certificates.append(_certificate(pair, fold, output, self._folded.pop(pair.conv_node)))
        return output

    def _arguments(self, n: Node) -> tuple[Any, ...]:
        arguments, _ = self.fetch_args_kwargs_from_env(n)
        return (*arguments, None) if len(arguments) == 2 else arguments


@torch.no_grad()
def _certify(program: ExportedProgram, folds: dict[FoldPair, _Fold], images: Tensor) -> list[ConvCertificate]:
    if not folds:
        return []
    certifier = _Certifier(program, folds)
    certifier.run(*constants(program).values(), images.clone(), enable_io_processing=False)
    return certifier.certificates


def _certificate(pair: FoldPair, fold: _Fold, expected: Tensor, actual: Tensor) -> ConvCertificate:
    batch_norm = fold.batch_norm
    error = (actual.double() - expected.double()).abs().transpose(0, 1).flatten(1).amax(1).numpy()
    peak = expected.abs().transpose(0, 1).flatten(1).amax(1).numpy()
    before = fold.conv.weight.detach().abs().amax().item()
    channels = fold.weight.abs().flatten(1).amax(1)
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
