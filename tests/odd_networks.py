"""Small networks whose layers backends rename, fuse or split, by name; RGB images of 16x16, ten classes."""

from collections.abc import Callable
from pathlib import Path

import small_models
import torch
from torch import Tensor, nn
from torch.nn import functional

from resnetrt.export.fold.fold import fold_batch_norms
from resnetrt.export.trace.trace import write_onnx
from resnetrt.preprocess import Preprocessing

SIZE = 16


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def with_head(*layers: nn.Module, channels: int = 16) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class PreActivation(nn.Module):
    """BatchNorm and ReLU in front of each convolution (He et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu())
        return x + self.conv2(self.bn2(out).relu())


class DenseLayer(nn.Module):
    """Its input beside what it makes of it (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu())
        return torch.cat([x, self.conv2(self.bn2(out).relu())], 1)


class CalledTwice(nn.Module):
    """One convolution, called before and behind a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(self.conv(x).relu())).relu() + x


class Recurrent(nn.Module):
    """One block, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = PreActivation()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.block(x)))


class FrozenBatchNorm(nn.Module):
    """A BatchNorm made of buffers, as in torchvision's detection models: a multiplication and an addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, channels).reshape(1, -1, 1, 1))
        self.register_buffer("shift", torch.linspace(-0.5, 0.5, channels).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class FrozenBlock(nn.Module):
    """A residual block with frozen BatchNorms and a projection."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, 16, 3, 2, 1, bias=False), FrozenBatchNorm(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), FrozenBatchNorm(16)
        self.project, self.bn3 = nn.Conv2d(inputs, 16, 1, 2, bias=False), FrozenBatchNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(out)) + self.bn3(self.project(x))).relu()


class ConvNext(nn.Module):
    """A depthwise convolution, then Linear layers over channels-last features (Liu et al. 2022)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm, self.act = nn.LayerNorm(channels), nn.GELU()
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.down(self.act(self.up(out))) * self.gamma).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """A transposed convolution with a BatchNorm, beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.bn = conv_bn_relu(3, 16, 2), nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8)
        self.out = conv_bn_relu(11, 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, self.bn(self.up(self.down(x))).relu()], 1))


class SqueezeExcite(nn.Module):
    """A gate over channels, of two 1x1 convolutions (Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.reduce, self.expand = conv_bn_relu(16, 16), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        gate = self.expand(self.reduce(out.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return (x + out * gate).relu()


class Subtracted(nn.Module):
    """What a block makes is taken away from its input; backends negate the weights instead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.bn(self.conv(x))).relu()


class Gated(Subtracted):
    """What a block makes is a gate of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.bn(self.conv(x)).sigmoid()


class Mixer(nn.Module):
    """Linear layers over tokens, then over channels (Tolstikhin et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 24, 4, 4), nn.Linear(24, 10)
        self.tokens, self.channels = nn.Linear(16, 16), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        out = self.stem(x).flatten(2)
        out = (out + functional.gelu(self.tokens(out))).transpose(1, 2)
        return self.fc((out + functional.gelu(self.channels(out))).mean(1))


class Attention(nn.Module):
    """Pixels as tokens through one head of self-attention, written out or as the one function of torch."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self._fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.qkv(x.flatten(2).transpose(1, 2)))
        if self._fused:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v
        return x + self.out(self.joined(mixed)).transpose(1, 2).unflatten(2, x.shape[2:])

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return tokens.chunk(3, -1)

    def joined(self, tokens: Tensor) -> Tensor:
        return tokens


class Heads(Attention):
    """Four heads."""

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return tokens.unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def joined(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).flatten(2)


class CeilPools(nn.Module):
    """Pools in ceil mode whose last window would begin behind the image, then a layer that counts on the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv_bn_relu(3, 16), nn.Linear(16 * 2 * 2, 10)
        self.pools = nn.Sequential(nn.MaxPool2d(2, 4, ceil_mode=True), nn.AvgPool2d(1, 2, 0, True))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pools(self.stem(x)).view(-1, 16 * 2 * 2))


class Siblings(nn.Module):
    """Convolutions and BatchNorms side by side, as in torchvision and timm; a shared block; two adds in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), small_models.ActivatedBatchNorm(16)
        self.conv3, self.bn3 = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.block, self.shared, self.fc = PreActivation(), CalledTwice(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = x + self.bn2(self.conv2(x))
        x = self.act(x + self.bn3(self.conv3(x)))
        return self.fc(self.shared(self.block(self.block(x))).mean((2, 3)))


def siblings() -> nn.Module:
    """`Siblings` with weights and statistics that make the folded convolutions unlike the plain ones."""
    return small_models.randomize(Siblings())


class Perceptron(nn.Module):
    """Linear layers over the channels of each pixel, as in ConvNeXt; the second reads contiguous values."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.gelu(self.up(x.permute(0, 2, 3, 1))))
        return out.permute(0, 3, 1, 2)


def perceptron() -> nn.Module:
    """Eager adds the second layer's bias within its product."""
    return small_models.randomize(with_head(conv_bn_relu(3, 16), Perceptron(), conv_bn_relu(16, 16)))


def clamped_twice() -> nn.Module:
    """The exporter makes one Clip of both."""
    conv = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.Hardtanh(-0.5, 2.0), nn.ReLU())
    return small_models.randomize(with_head(conv, conv_bn_relu(16, 16)))


class NormalizesInPlace(nn.Module):
    """Writes into the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = with_head(conv_bn_relu(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x.sub_(0.4).div_(0.3))
        return out


def normalizes_in_place() -> nn.Module:
    """What else reads the images must not see what it writes."""
    return small_models.randomize(NormalizesInPlace())


def convolution_last() -> nn.Module:
    """Scores of each place, averaged: the last layer's output is not the network's."""
    torch.manual_seed(0)
    return small_models.Chain(conv_bn_relu(3, 16), nn.Conv2d(16, 10, 1)).eval()


for _factory in (siblings, perceptron, clamped_twice, normalizes_in_place, convolution_last):
    _factory.preprocessing = Preprocessing("RGB", SIZE, (SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)  # type: ignore[attr-defined]

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "pre_activation": lambda: with_head(nn.Conv2d(3, 16, 3, bias=False), PreActivation(), nn.BatchNorm2d(16)),
    "densenet": lambda: with_head(conv_bn_relu(3, 16, 2), DenseLayer(16, 8), DenseLayer(24, 8), channels=32),
    "called_twice": lambda: with_head(conv_bn_relu(3, 16, 2), CalledTwice(), CalledTwice()),
    "recurrent": lambda: with_head(conv_bn_relu(3, 16, 2), Recurrent()),
    "frozen_batch_norm": lambda: with_head(FrozenBlock(3), FrozenBlock(16)),
    "convnext": lambda: with_head(nn.Conv2d(3, 16, 4, 4), ConvNext(), ConvNext()),
    "grouped": lambda: with_head(conv_bn_relu(3, 16, 2), conv_bn_relu(16, 16, 1, 4), conv_bn_relu(16, 16, 1, 16)),
    "transposed": lambda: with_head(UNet()),
    "squeeze_excite": lambda: with_head(conv_bn_relu(3, 16, 2), SqueezeExcite(), SqueezeExcite()),
    "subtracted": lambda: with_head(conv_bn_relu(3, 16, 2), Subtracted(), Subtracted()),
    "gated": lambda: with_head(conv_bn_relu(3, 16, 2), Gated(), Gated()),
    "mixer": Mixer,
    "attention": lambda: with_head(conv_bn_relu(3, 16, 2), Attention(False), Attention(False)),
    "heads": lambda: with_head(conv_bn_relu(3, 16, 2), Heads(False), Heads(True)),
    "ceil_pools": CeilPools,
}


def write_fp32(name: str, folder: Path) -> Path:
    """The network `name` of `NETWORKS` with random weights and statistics, folded and traced."""
    torch.manual_seed(0)
    module = small_models.randomize(NETWORKS[name]())
    fold = fold_batch_norms(module, torch.randn(2, 3, SIZE, SIZE))
    path = folder / f"{name}.onnx"
    write_onnx(fold.program, path)
    return path
