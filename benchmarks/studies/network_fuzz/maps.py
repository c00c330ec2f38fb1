"""Layers that rearrange maps: pools, pads, cuts, reshapes, resizing, and small arithmetic between layers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetrt.benchmarks.studies.network_fuzz.layers import Do, Pair, Shape, layer, two


@layer
def pool(
    _shape: Shape,
    kind: str = "max",
    kernel: Pair = (2, 2),
    stride: Pair = (2, 2),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil: bool = False,
    include_pad: bool = True,
    divisor: int | None = None,
) -> nn.Module:
    """A pool with a window: `max`, `avg`, `lp`."""
    if kind == "lp":
        return nn.LPPool2d(2, two(kernel), two(stride), ceil)
    if kind == "avg":
        return nn.AvgPool2d(two(kernel), two(stride), two(padding), ceil, include_pad, divisor)
    return nn.MaxPool2d(two(kernel), two(stride), two(padding), two(dilation), ceil_mode=ceil)


@layer
def adaptive_pool(_shape: Shape, kind: str = "avg", size: Pair = (2, 2)) -> nn.Module:
    """An adaptive pool to `size`; 0 keeps an axis as it is."""
    to = (size[0] or None, size[1] or None)
    return nn.AdaptiveMaxPool2d(to) if kind == "max" else nn.AdaptiveAvgPool2d(to)


class Blur(nn.Module):
    """A fixed depthwise filter with stride 2, its weights a buffer."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (row[:, None] * row).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.kernel, stride=2, groups=x.shape[1])


@layer
def blur(shape: Shape) -> nn.Module:
    """An antialiased downsampling."""
    return Blur(shape[0])


@layer
def pad(
    _shape: Shape,
    amounts: Sequence[int] = (1, 1, 1, 1),
    mode: str = "constant",
    value: float = 0.0,
) -> nn.Module:
    """`F.pad`: amounts for the last axis first; negative amounts crop, and six amounts reach the channels."""
    return Do(lambda x: F.pad(x, list(amounts), mode, value if mode == "constant" else None))


class Select(nn.Module):
    """Channels by an index that is a buffer."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


def _cut(axis: int, start: int | None, stop: int | None, step: int) -> Callable[[Tensor], Tensor]:
    where = (*[slice(None)] * axis, slice(start, stop, step))
    return lambda x: x[where]


@layer
def cut(
    shape: Shape, kind: str = "slice", axis: int = 2, start: int | None = 0, stop: int | None = None, step: int = 1
) -> nn.Module:
    """Parts of the map: `slice`, `flip`, `roll`, `select` (channels by an index buffer), `narrow`."""
    if kind == "select":
        return Select(torch.arange(shape[0] - 1, -1, -max(1, step)))
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "slice": _cut(axis, start, stop, step),
        "flip": lambda x: x.flip(axis),
        "roll": lambda x: torch.roll(x, 1, axis),
        "narrow": lambda x: x.narrow(axis, 0, (x.shape[axis] + 1) // 2),
    }
    return Do(makers[kind])


def _squeeze_last(x: Tensor) -> Any:
    return x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(x.shape)


@layer
def reshape(shape: Shape, kind: str = "pixel_shuffle", by: int = 2) -> nn.Module:
    """Rearrangements: `pixel_shuffle`, `pixel_unshuffle`, `channel_shuffle`, `space_to_depth`, `swap`, `through_3d`."""
    channels, height, width = shape
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, by),
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, by),
        "channel_shuffle": lambda x: F.channel_shuffle(x, by),
        "channel_shuffle_view": lambda x: x.view(-1, by, channels // by, height, width).transpose(1, 2).flatten(1, 2),
        "space_to_depth": lambda x: (
            x.reshape(-1, channels, height // by, by, width // by, by)
            .permute(0, 3, 5, 1, 2, 4)
            .reshape(-1, channels * by * by, height // by, width // by)
        ),
        "swap": lambda x: x.transpose(2, 3),
        "swap_channels": lambda x: x.transpose(1, 2),
        "through_3d": _squeeze_last,
        "mix": lambda x: x.reshape(-1, channels * by, height // by, width),
        "contiguous": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "focus": lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1),
    }
    return Do(makers[kind])


@layer
def resize(
    _shape: Shape, mode: str = "nearest", factor: float = 2.0, size: Pair | None = None, align: bool = False
) -> nn.Module:
    """`F.interpolate` by a factor or to a size."""
    corners = align if mode in ("bilinear", "bicubic") else None
    if size is not None:
        to = two(size)
        return Do(lambda x: F.interpolate(x, size=to, mode=mode, align_corners=corners))
    return Do(lambda x: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=corners))


class Affine(nn.Module):
    """Scale and shift of channels, parameters (LayerScale) or buffers (normalisation inside the network)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int, buffers: bool) -> None:
        super().__init__()
        for name, tensor in (
            ("scale", torch.linspace(0.5, 1.5, channels)),
            ("shift", torch.linspace(-0.3, 0.3, channels)),
        ):
            if buffers:
                self.register_buffer(name, tensor.reshape(1, -1, 1, 1))
            else:
                self.register_parameter(name, nn.Parameter(tensor.reshape(1, -1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) * self.scale


class Remembers(nn.Module):
    """Makes a table of positions in its first call and keeps it as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or self.table.shape != x.shape[2:] or self.table.dtype != x.dtype:
            self.table = torch.linspace(-0.5, 0.5, x.shape[2] * x.shape[3]).reshape(x.shape[2:]).to(x)
        return x + self.table


class Coordinates(nn.Module):
    """Two more channels with the coordinates (CoordConv)."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h, dtype=x.dtype)[:, None].expand(n, 1, h, w)
        columns = torch.linspace(-1, 1, w, dtype=x.dtype).expand(n, 1, h, w)
        return torch.cat([x, rows, columns], 1)


@layer
def arithmetic(shape: Shape, kind: str = "scale") -> nn.Module:
    """Small arithmetic between layers."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "scale": lambda: Affine(shape[0], buffers=False),
        "buffers": lambda: Affine(shape[0], buffers=True),
        "remembers": Remembers,
        "coordinates": Coordinates,
        "times": lambda: Do(lambda x: 0.5 * x),
        "rescale": lambda: Do(lambda x: 2 * x - 1),
        "negative": lambda: Do(lambda x: -x),
        "centre": lambda: Do(lambda x: x - x.mean((2, 3), keepdim=True)),
        "dropout": lambda: nn.Dropout2d(0.3),
        "identity": nn.Identity,
        "inplace": lambda: Do(lambda x: (x * 1.0).mul_(0.7).add_(0.1)),
        "crelu": lambda: Do(lambda x: torch.cat([torch.relu(x), torch.relu(-x)], 1)),
        "repeat": lambda: Do(lambda x: x.repeat(1, 2, 1, 1)),
        "normalize_input": lambda: Do(lambda x: x.sub_(0.1).div_(0.9)),
        "double": lambda: Do(lambda x: (x.double() * 0.7).to(x.dtype)),
        "sum_of_squares": lambda: Do(lambda x: torch.sqrt(x.square() + 1e-2)),
        "mask": lambda: Do(lambda x: x * (x > 0.2).to(x.dtype)),
        "topmost": lambda: Do(lambda x: x / (x.abs().amax((1, 2, 3), keepdim=True) + 1e-3)),
        "cumulative": lambda: Do(lambda x: torch.cumsum(x, 1) * 0.3),
    }
    return makers[kind]()
