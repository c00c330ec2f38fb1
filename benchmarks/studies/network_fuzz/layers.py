"""The layers of the grammar: each builder makes one module for feature maps of a shape `(C, H, W)`.

Every option defaults to its plainest value, so that the shrinker may leave any of them out. Options that don't fit the
shape (more groups than channels) are adapted to it, or refused by torch itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]
Builder = Callable[..., nn.Module]
LAYERS: dict[str, Builder] = {}
Pair = Sequence[int]


def two(pair: Pair) -> tuple[int, int]:
    """A pair from JSON, typed as torch expects."""
    return pair[0], pair[1]


def layer(build: Builder) -> Builder:
    """Register a builder under its own name."""
    LAYERS[build.__name__.rstrip("_")] = build
    return build


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class StandardizedConv(nn.Conv2d):
    """A convolution whose weights are computed in every call (weight standardization)."""

    def forward(self, x: Tensor) -> Any:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True, unbiased=False) + 1e-5)
        return self._conv_forward(x, weight * 0.3, self.bias)


class FunctionalConv(nn.Module):
    """A convolution through `F.conv2d`, with the parameters of a module that is never called."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        c = self.conv
        return F.conv2d(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups)


@layer
def conv(
    shape: Shape,
    out: int = 8,
    kernel: Pair = (1, 1),
    stride: Pair = (1, 1),
    padding: Pair | str = (0, 0),
    dilation: Pair = (1, 1),
    groups: int | str = 1,
    bias: bool = True,
    mode: str = "zeros",
    weights: str = "plain",
    functional: bool = False,
) -> nn.Module:
    """A convolution; `weights` may be computed: `weight_norm`, `weight_norm_hook`, `spectral_norm`, `standardized`."""
    if groups == "depthwise":
        out, count = max(1, round(out / shape[0])) * shape[0], shape[0]
    else:
        count = math.gcd(int(groups), shape[0], out)
    make: Any = StandardizedConv if weights == "standardized" else nn.Conv2d
    made: nn.Conv2d = make(
        shape[0], out, two(kernel), two(stride), padding if isinstance(padding, str) else two(padding),
        two(dilation), count, bias, mode,
    )  # fmt: skip
    if weights == "weight_norm":
        nn.utils.parametrizations.weight_norm(made)
    elif weights == "weight_norm_hook":
        nn.utils.weight_norm(made)
    elif weights == "spectral_norm":
        nn.utils.parametrizations.spectral_norm(made)
    return FunctionalConv(made) if functional else made


@layer
def conv_transpose(
    shape: Shape,
    out: int = 8,
    kernel: Pair = (2, 2),
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A transposed convolution."""
    count = math.gcd(groups, shape[0], out)
    return nn.ConvTranspose2d(
        shape[0], out, two(kernel), two(stride), two(padding), two(output_padding), count, bias, two(dilation),
    )  # fmt: skip


class FunctionalBatchNorm(nn.BatchNorm2d):
    """A BatchNorm's arithmetic written out, in the order of torchvision's FrozenBatchNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class ActivatedBatchNorm(nn.BatchNorm2d):
    """A BatchNorm with an activation inside, as timm's."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class CallsFunction(nn.BatchNorm2d):
    """A BatchNorm through `F.batch_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)


class LayerNormFirst(nn.Module):
    """LayerNorm over the channels of NCHW: by permutes, or written out as ConvNeXt does."""

    def __init__(self, channels: int, by_hand: bool) -> None:
        super().__init__()
        self.norm, self._by_hand = nn.LayerNorm(channels, 1e-6), by_hand

    def forward(self, x: Tensor) -> Any:
        if not self._by_hand:
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + self.norm.eps)
        return self.norm.weight[:, None, None] * x + self.norm.bias[:, None, None]


_NORMS: dict[str, Callable[[Shape, float], nn.Module]] = {
    "batch": lambda s, eps: nn.BatchNorm2d(s[0], eps),
    "batch_plain": lambda s, eps: nn.BatchNorm2d(s[0], eps, affine=False),
    "batch_frozen": lambda s, eps: FunctionalBatchNorm(s[0], eps),
    "batch_activated": lambda s, eps: ActivatedBatchNorm(s[0], eps),
    "batch_function": lambda s, eps: CallsFunction(s[0], eps),
    "sync": lambda s, eps: nn.SyncBatchNorm(s[0], eps),
    "group": lambda s, eps: nn.GroupNorm(math.gcd(s[0], 4), s[0], eps),
    "group_one": lambda s, eps: nn.GroupNorm(1, s[0], eps, affine=False),
    "instance": lambda s, eps: nn.InstanceNorm2d(s[0], eps),
    "instance_affine": lambda s, eps: nn.InstanceNorm2d(s[0], eps, affine=True),
    "instance_tracked": lambda s, eps: nn.InstanceNorm2d(s[0], eps, affine=True, track_running_stats=True),
    "layer_last": lambda s, _: LayerNormFirst(s[0], by_hand=False),
    "layer_first": lambda s, _: LayerNormFirst(s[0], by_hand=True),
    "layer_all": lambda s, eps: nn.LayerNorm(list(s), eps),
    "local_response": lambda s, _: nn.LocalResponseNorm(min(5, s[0]), 1e-2),
    "unit": lambda _s, _eps: Do(lambda x: F.normalize(x, dim=1)),
}
NORMS = tuple(_NORMS)


@layer
def norm(shape: Shape, kind: str = "batch", eps: float = 1e-5) -> nn.Module:
    """A normalisation of `NORMS`."""
    return _NORMS[kind](shape, eps)


_ACTIVATIONS: dict[str, tuple[Callable[[Shape], nn.Module], Callable[[Tensor], Tensor]]] = {
    "relu": (lambda _: nn.ReLU(), torch.relu),
    "relu_inplace": (lambda _: nn.ReLU(inplace=True), lambda x: F.relu(x * 1.0, inplace=True)),
    "relu6": (lambda _: nn.ReLU6(), F.relu6),
    "leaky": (lambda _: nn.LeakyReLU(0.1), lambda x: F.leaky_relu(x, 0.2)),
    "prelu": (lambda s: nn.PReLU(s[0]), lambda x: F.prelu(x, x.new_full((1,), 0.3))),
    "prelu_one": (lambda _: nn.PReLU(), lambda x: torch.where(x > 0, x, 0.25 * x)),
    "silu": (lambda _: nn.SiLU(), lambda x: x * torch.sigmoid(x)),
    "hardswish": (lambda _: nn.Hardswish(), lambda x: x * F.relu6(x + 3) / 6),
    "hardsigmoid": (lambda _: nn.Hardsigmoid(), F.hardsigmoid),
    "gelu": (lambda _: nn.GELU(), lambda x: F.gelu(x, approximate="tanh")),
    "sigmoid": (lambda _: nn.Sigmoid(), torch.sigmoid),
    "tanh": (lambda _: nn.Tanh(), torch.tanh),
    "elu": (lambda _: nn.ELU(), lambda x: F.elu(x, 0.5)),
    "celu": (lambda _: nn.CELU(0.7), F.celu),
    "selu": (lambda _: nn.SELU(), F.selu),
    "softplus": (lambda _: nn.Softplus(), lambda x: F.softplus(x, 2.0)),
    "mish": (lambda _: nn.Mish(), lambda x: x * torch.tanh(F.softplus(x))),
    "hardtanh": (lambda _: nn.Hardtanh(-0.5, 2.0), lambda x: x.clamp(-0.5, 2.0)),
    "clamp_min": (lambda _: nn.Threshold(0.1, 0.1), lambda x: x.clamp(min=0.0)),
    "softsign": (lambda _: nn.Softsign(), F.softsign),
    "logsigmoid": (lambda _: nn.LogSigmoid(), F.logsigmoid),
    "tanhshrink": (lambda _: nn.Tanhshrink(), lambda x: F.softshrink(x, 0.1)),
    "absolute": (lambda _: nn.Hardshrink(0.1), torch.abs),
    "squared_relu": (lambda _: Do(lambda x: torch.relu(x).square()), lambda x: torch.relu(x) ** 2),
    "glu": (lambda _: nn.GLU(1), lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1])),
    "channel_softmax": (lambda _: nn.Softmax2d(), lambda x: torch.softmax(x, 1)),
    "maximum": (lambda _: Do(lambda x: torch.maximum(x, 0.1 * x)), lambda x: torch.max(x, x.new_zeros(()))),
}
ACTIVATIONS = tuple(_ACTIVATIONS)


@layer
def act(shape: Shape, kind: str = "relu", functional: bool = False) -> nn.Module:
    """An activation of `ACTIVATIONS`, as a module or written as a function."""
    module, function = _ACTIVATIONS[kind]
    return Do(function) if functional else module(shape)


def build_layer(described: dict[str, Any], shape: Shape) -> nn.Module:
    """The module of a layer that is no block. Raises whatever torch or Python does for options that don't fit."""
    return LAYERS[described["op"]](shape, **{key: value for key, value in described.items() if key != "op"})
