"""Blocks: layers inside layers. A block receives its bodies already built, and adapts them if its rule needs it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetrt.benchmarks.studies.network_fuzz import maps, mixers  # noqa: F401, they enter their layers
from resnetrt.benchmarks.studies.network_fuzz.layers import Do, Shape, build_layer

BodyBuilder = Callable[[list[dict[str, Any]], Shape], tuple[nn.Module, Shape]]


class Residual(nn.Module):
    """`act(join(shortcut(x), body(x)))`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, join: str, act: bool, swapped: bool) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self._join, self._act, self._swapped = join, act, swapped

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.shortcut(x), self.body(x)
        out = _joined([two, one] if self._swapped else [one, two], self._join)
        return F.relu(out) if self._act else out


class Branches(nn.Module):
    """Several bodies on one input, joined."""

    def __init__(self, bodies: Sequence[nn.Module], join: str) -> None:
        super().__init__()
        self.branches, self._join = nn.ModuleList(bodies), join

    def forward(self, x: Tensor) -> Tensor:
        return _joined([branch(x) for branch in self.branches], self._join)


class Split(nn.Module):
    """Channels in two halves: the body on one half, the other half passed on (ShuffleNet)."""

    def __init__(self, body: nn.Module, kind: str, at: int) -> None:
        super().__init__()
        self.body, self._kind, self._at = body, kind, at

    def forward(self, x: Tensor) -> Tensor:
        if self._kind == "chunk":
            one, two = x.chunk(2, 1)
        elif self._kind == "split":
            one, two = torch.split(x, [self._at, x.shape[1] - self._at], 1)
        else:
            one, two = x[:, : self._at], x[:, self._at :]
        return torch.cat([one, self.body(two)], 1)


class Repeated(nn.Module):
    """One body, called several times: shared weights."""

    def __init__(self, body: nn.Module, times: int, activated: bool) -> None:
        super().__init__()
        self.body, self._times, self._activated = body, times, activated

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self._times):
            x = self.body(x)
            x = F.relu(x) if self._activated else x
        return x


class Tiles(nn.Module):
    """The map cut into strips, which pass the body as images of a batch."""

    def __init__(self, body: nn.Module, count: int, mixing: bool) -> None:
        super().__init__()
        self.body, self._count, self._mixing = body, count, mixing

    def forward(self, x: Tensor) -> Any:
        n, c, h, w = x.shape
        if self._mixing:
            y = self.body(x.reshape(-1, c, h // self._count, w))
            return y.reshape(n, -1, y.shape[2] * self._count, y.shape[3])
        y = x.reshape(n, c, self._count, h // self._count, w).transpose(1, 2).flatten(0, 1)
        y = self.body(y)
        return y.unflatten(0, (-1, self._count)).mean(1)


class EachChannel(nn.Module):
    """Every channel passes the body as a grey image of its own."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Any:
        n, c, h, w = x.shape
        y = self.body(x.reshape(n * c, 1, h, w))
        return y.reshape(n, -1, *y.shape[2:])


class SqueezeExcite(nn.Module):
    """A gate for every channel, from the mean over its pixels."""

    def __init__(self, channels: int, gate: str, linear: bool) -> None:
        super().__init__()
        hidden = max(2, channels // 4)
        make: Any = nn.Linear if linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.reduce, self.expand, self._linear = make(channels, hidden), make(hidden, channels), linear
        self._gate: Any = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid, "tanh": torch.tanh}[gate]

    def forward(self, x: Tensor) -> Any:
        pooled = x.mean((2, 3)) if self._linear else F.adaptive_avg_pool2d(x, 1)
        gate = self._gate(self.expand(F.relu(self.reduce(pooled))))
        return x * (gate[:, :, None, None] if self._linear else gate)


class Passes(nn.Module):
    """A wrapper that passes everything on, as DataParallel and AveragedModel do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.module(*args, **options)


class Checkpointed(nn.Module):
    """A body behind activation checkpointing."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        out: Tensor = checkpoint(self.body, x, use_reentrant=False)
        return out


class Pyramid(nn.Module):
    """A body at half the size, resized to full size and joined with its input (U-Net, feature pyramids)."""

    def __init__(self, body: nn.Module, mode: str, add: bool) -> None:
        super().__init__()
        self.body, self._mode, self._add = body, mode, add

    def forward(self, x: Tensor) -> Tensor:
        small = self.body(F.max_pool2d(x, 2, ceil_mode=True))
        corners = False if self._mode == "bilinear" else None
        back = F.interpolate(small, size=x.shape[2:], mode=self._mode, align_corners=corners)
        return x + back if self._add else torch.cat([x, back], 1)


def build_block(layer: dict[str, Any], shape: Shape, build: BodyBuilder) -> nn.Module:
    """The module of a block for inputs of `shape`. Raises `ValueError` for bodies that don't fit."""
    options = {key: value for key, value in layer.items() if key not in ("op", "body", "bodies")}
    return BLOCKS[layer["op"]](layer, shape, build, **options)


def _residual(
    layer: dict[str, Any], shape: Shape, build: BodyBuilder,
    shortcut: str = "auto", join: str = "add", act: bool = False, swapped: bool = False,
) -> nn.Module:  # fmt: skip
    body, inner = build(layer["body"], shape)
    return Residual(body, _shortcut(shape, inner, shortcut), join, act, swapped)


def _shortcut(shape: Shape, inner: Shape, kind: str) -> nn.Module:
    """Identity if the shapes agree; else a projection, or dropped pixels and padded channels (option A)."""
    if shape == inner:
        return nn.Identity()
    step = (-(-shape[1] // inner[1]), -(-shape[2] // inner[2]))
    if (-(-shape[1] // step[0]), -(-shape[2] // step[1])) != inner[1:]:
        raise ValueError(f"no shortcut from {shape} to {inner}")
    more = inner[0] - shape[0]
    if kind == "pad" and more >= 0:
        return Do(lambda x: F.pad(x[:, :, :: step[0], :: step[1]], (0, 0, 0, 0, more // 2, more - more // 2)))
    if kind == "cat" and more > 0:
        return Do(lambda x: _with_zeros(F.avg_pool2d(x, step, ceil_mode=True), more))
    if kind == "normed":
        return nn.Sequential(nn.Conv2d(shape[0], inner[0], 1, step, bias=False), nn.BatchNorm2d(inner[0]))
    return nn.Conv2d(shape[0], inner[0], 1, step)


def _with_zeros(x: Tensor, more: int) -> Tensor:
    return torch.cat([x, x.new_zeros(x.shape[0], more, x.shape[2], x.shape[3])], 1)


def _joined(values: list[Tensor], join: str) -> Tensor:
    if join == "cat":
        return torch.cat(values, 1)
    if join == "stack":
        return torch.stack(values, 1).mean(1)
    if join == "interleave":
        return torch.stack(values, 2).flatten(1, 2)
    out = values[0]
    for value in values[1:]:
        if join == "add":
            out = out + value
        elif join == "subtract":
            out = out - value
        elif join == "gate":
            out = out * torch.sigmoid(value)
        elif join == "multiply":
            out = out * value
        else:
            out = torch.maximum(out, value)
    return out


def _dense(layer: dict[str, Any], shape: Shape, build: BodyBuilder, join: str = "cat", act: bool = False) -> nn.Module:
    body, inner = build(layer["body"], shape)
    if inner[1:] != shape[1:]:
        raise ValueError("a dense block keeps its size")
    return Residual(body, nn.Identity(), join, act, False)


def _branches(layer: dict[str, Any], shape: Shape, build: BodyBuilder, join: str = "cat") -> nn.Module:
    return Branches([build(body, shape)[0] for body in layer["bodies"]], join)


def _split(layer: dict[str, Any], shape: Shape, build: BodyBuilder, kind: str = "chunk") -> nn.Module:
    at = (shape[0] + 1) // 2 if kind == "chunk" else max(1, shape[0] // 3)
    return Split(build(layer["body"], (shape[0] - at, *shape[1:]))[0], kind, at)


def _repeat(
    layer: dict[str, Any], shape: Shape, build: BodyBuilder, times: int = 2, activated: bool = False
) -> nn.Module:
    body, inner = build(layer["body"], shape)
    if inner != shape:
        raise ValueError("a body that is repeated keeps its shape")
    return Repeated(body, times, activated)


def _tiles(layer: dict[str, Any], shape: Shape, build: BodyBuilder, count: int = 2, mixing: bool = False) -> nn.Module:
    if shape[1] % count:
        raise ValueError("tiles of several sizes")
    return Tiles(build(layer["body"], (shape[0], shape[1] // count, shape[2]))[0], count, mixing)


def _each_channel(layer: dict[str, Any], shape: Shape, build: BodyBuilder) -> nn.Module:
    return EachChannel(build(layer["body"], (1, *shape[1:]))[0])


def _squeeze_excite(
    _layer: dict[str, Any], shape: Shape, _build: BodyBuilder, gate: str = "sigmoid", linear: bool = False
) -> nn.Module:
    return SqueezeExcite(shape[0], gate, linear)


def _passes(layer: dict[str, Any], shape: Shape, build: BodyBuilder, checkpointed: bool = False) -> nn.Module:
    body = build(layer["body"], shape)[0]
    return Checkpointed(body) if checkpointed else Passes(body)


def _pyramid(
    layer: dict[str, Any], shape: Shape, build: BodyBuilder, mode: str = "nearest", add: bool = False
) -> nn.Module:
    return Pyramid(build(layer["body"], (shape[0], -(-shape[1] // 2), -(-shape[2] // 2)))[0], mode, add)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "residual": _residual,
    "dense": _dense,
    "branches": _branches,
    "split_channels": _split,
    "repeat": _repeat,
    "tiles": _tiles,
    "each_channel": _each_channel,
    "squeeze_excite": _squeeze_excite,
    "passes": _passes,
    "pyramid": _pyramid,
}


def build_any(layer: dict[str, Any], shape: Shape, build: BodyBuilder) -> nn.Module:
    """A layer or a block."""
    return build_block(layer, shape, build) if layer["op"] in BLOCKS else build_layer(layer, shape)
