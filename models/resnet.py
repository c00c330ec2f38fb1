"""The ResNet family as one template class, driven by a configuration.

He et al., "Deep Residual Learning for Image Recognition", 2015 (arXiv:1512.03385); ResNeXt: Xie et al. 2016
(arXiv:1611.05431); wide variants: Zagoruyko and Komodakis 2016 (arXiv:1605.07146).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BlockKind = Literal["basic", "bottleneck"]
ShortcutKind = Literal["projection", "pad", "none"]
StemKind = Literal["imagenet", "small"]


@dataclass(frozen=True)
class ResNetConfig:
    """Everything that decides a network's shape.

    `block`, `filters` (of the first stage) and `blocks` (per stage) name a network; the rest are options.
    `shortcut`: `projection` is option B of the paper (1x1 conv where the shape changes), `pad` is option A
    (stride, then zero channels, half before and half after), `none` gives the plain networks.
    `stride_in_1x1` puts a bottleneck's stride into the first 1x1 (v1, as in the paper) instead of the 3x3 (v1.5).
    `width` scales a bottleneck's inner channels for ResNeXt and wide networks: `filters * width/64 * groups`.
    """

    block: BlockKind
    filters: int
    blocks: tuple[int, ...]
    shortcut: ShortcutKind = "projection"
    stem: StemKind = "imagenet"
    stride_in_1x1: bool = False
    width: int = 64
    groups: int = 1
    num_classes: int = 1000
    in_channels: int = 3
    init_mode: Literal["fan_in", "fan_out"] = "fan_in"

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block: expected one of {sorted(BLOCKS)}, found {self.block!r}")
        if self.shortcut not in ("projection", "pad", "none"):
            raise ValueError(f"shortcut: expected projection, pad or none, found {self.shortcut!r}")
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f"stem: expected imagenet or small, found {self.stem!r}")
        if self.init_mode not in ("fan_in", "fan_out"):
            raise ValueError(f"init_mode: expected fan_in or fan_out, found {self.init_mode!r}")
        if self.block == "basic" and (self.groups != 1 or self.width != 64 or self.stride_in_1x1):
            raise ValueError("groups, width and stride_in_1x1 need block='bottleneck', found block='basic'")
        sizes = {name: getattr(self, name) for name in ("filters", "width", "groups", "num_classes", "in_channels")}
        for name, value in [*sizes.items(), *(("blocks", count) for count in self.blocks or (0,))]:
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, found {value!r}")
        if self.filters * self.width < 64:
            raise ValueError(f"width: expected at least {-(-64 // self.filters)}, found {self.width}")

    @property
    def depth(self) -> int:
        """Layers with weights on the longest path: stem, convolutions of the blocks, classifier."""
        return sum(self.blocks) * BLOCKS[self.block].convolutions + 2


class ConvBN(nn.Sequential):
    """A convolution without bias and its BatchNorm, padded so that stride 1 keeps `(H, W)`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)


class PadShortcut(nn.Module):
    """Option A of the paper: every `stride`-th pixel, and new channels of zeros on both sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.stride = stride
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C + extra, ceil(H/stride), ceil(W/stride))`."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def make_shortcut(config: ResNetConfig, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The branch beside a block's convolutions; None for plain networks."""
    if config.shortcut == "none":
        return None
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if config.shortcut == "pad":
        return PadShortcut(in_channels, out_channels, stride)
    return ConvBN(in_channels, out_channels, 1, stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, added before the last ReLU."""

    expansion = 1
    convolutions = 2

    def __init__(self, config: ResNetConfig, in_channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, filters, 3, stride)
        self.conv2 = ConvBN(filters, filters, 3)
        self.shortcut = make_shortcut(config, in_channels, filters, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C_in, H, W)` to `(N, filters, H/stride, W/stride)`."""
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out if self.shortcut is None else out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 squeeze, 3x3, 1x1 expand beside a shortcut, added before the last ReLU."""

    expansion = 4
    convolutions = 3

    def __init__(self, config: ResNetConfig, in_channels: int, filters: int, stride: int) -> None:
        super().__init__()
        inner = int(filters * (config.width / 64)) * config.groups
        out_channels = filters * self.expansion
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = ConvBN(in_channels, inner, 1, first)
        self.conv2 = ConvBN(inner, inner, 3, second, config.groups)
        self.conv3 = ConvBN(inner, out_channels, 1)
        self.shortcut = make_shortcut(config, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C_in, H, W)` to `(N, 4 * filters, H/stride, W/stride)`."""
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out if self.shortcut is None else out + self.shortcut(x))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average pool, one linear layer.

    The first block of every later stage halves `(H, W)` and doubles the filters.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        block = BLOCKS[config.block]
        small = config.stem == "small"
        self.stem = ConvBN(config.in_channels, config.filters, 3 if small else 7, 1 if small else 2)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        channels = config.filters
        stages = []
        for index, count in enumerate(config.blocks):
            filters, layers = config.filters * 2**index, []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                layers.append(block(config, channels, filters, stride))
                channels = filters * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, config.num_classes)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=self.config.init_mode, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, in_channels, H, W)`, float32, to logits `(N, num_classes)`."""
        x = self.pool(F.relu(self.stem(x)))
        x = self.stages(x)
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits
