"""Small networks for tests: residual networks of every kind, and modules whose BatchNorm is hard to fold."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnetrt.export.fold.graph import trace
from resnetrt.export.trace.trace import DEFAULT_OPSET, write_onnx
from resnetrt.models.resnet import ResNet, ResNetConfig

CLASSES = 5
CONFIGS = {
    "projection": ResNetConfig("basic", 4, (2, 1), stem="small", num_classes=CLASSES),
    "pad": ResNetConfig("basic", 4, (2, 1), shortcut="pad", stem="small", num_classes=CLASSES),
    "plain": ResNetConfig("basic", 4, (1, 1), shortcut="none", stem="small", num_classes=CLASSES),
    "bottleneck": ResNetConfig("bottleneck", 4, (2, 1), num_classes=CLASSES),
}
SHAPES = {"projection": (3, 16, 16), "pad": (3, 16, 16), "plain": (3, 16, 16), "bottleneck": (3, 32, 32)}


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in evaluation mode with random parameters and BatchNorm statistics, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.1 * noise)
            if name.endswith("bn.weight"):
                parameter.add_(1)
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                layer.running_mean.copy_(0.2 * torch.randn(layer.num_features, generator=generator))
                layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
                if layer.affine:
                    layer.weight.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
    return module.eval()


def build(kind: str, seed: int = 0) -> nn.Module:
    """One of `CONFIGS`, randomized."""
    return randomize(ResNet(CONFIGS[kind]), seed)


def trace_to_onnx(module: nn.Module, input_shape: tuple[int, int, int], path: Path, opset: int = DEFAULT_OPSET) -> None:
    """`module` as it is, without folding, as ONNX at `path`: input `(batch, C, H, W)`, output `logits`."""
    write_onnx(trace(module.eval(), torch.zeros(2, *input_shape)), path, opset, type(module).__name__)


def pictures(kind: str, count: int, seed: int = 3) -> Tensor:
    """Smooth random images for `build(kind)`, about normalised."""
    channels, height, width = SHAPES[kind]
    coarse = torch.randn(count, channels, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


class Chain(nn.Module):
    """Layers one after the other, then logits by averaging over all pixels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(2).mean(2)


class PreActivation(nn.Module):
    """BatchNorm and ReLU before each convolution (He et al. 2016): the first BatchNorm can't be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu())
        out = self.conv2(self.bn2(out).relu())
        return (out + x).mean((2, 3))


class ConvUsedTwice(nn.Module):
    """The convolution's output goes to the BatchNorm and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return (self.bn(out) + out).mean((2, 3))


class SharedConv(nn.Module):
    """One convolution module called twice, once with a BatchNorm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(self.conv(x)).relu()).mean((2, 3))


class SharedBatchNorm(nn.Module):
    """One BatchNorm module behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.bn(self.conv1(x)))).mean((2, 3))


class TiedWeights(nn.Module):
    """Two convolution modules with one weight: folding the first must not change the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.conv2.weight = self.conv1.weight
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.bn(self.conv1(x))).mean((2, 3))


class ActivatedBatchNorm(nn.BatchNorm2d):
    """A BatchNorm with a ReLU inside, as in timm and inplace_abn."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Aliases(nn.Module):
    """The layers have other names too, listed after those by which they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm = self.bn
        self.features = nn.Sequential(self.conv, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).mean((2, 3))


class LateAliases(nn.Module):
    """The layers are called by names that are listed after others for the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.conv, self.bn = self.features

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).mean((2, 3))


class Keywords(nn.Module):
    """Layers called with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(input=self.conv(input=x)).mean((2, 3))


class FunctionalConv(Keywords):
    """The convolution's parameters are used without calling the module."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(nn.functional.conv2d(x, self.conv.weight, self.conv.bias)).mean((2, 3))


class FunctionalBatchNorm(Keywords):
    """The BatchNorm's parameters are used without calling the module."""

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        out = nn.functional.batch_norm(self.conv(x), bn.running_mean, bn.running_var, bn.weight, bn.bias)
        return out.mean((2, 3))


class ScaledByImage(Keywords):
    """The BatchNorm's scale depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        out = nn.functional.batch_norm(self.conv(x), bn.running_mean, bn.running_var, x.mean() * bn.weight, bn.bias)
        return out.mean((2, 3))


class StandardizedConv(nn.Conv2d):
    """A convolution whose weight is computed in every call (weight standardization)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)
