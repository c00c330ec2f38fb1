"""Layers around matrix products, and traps: layers that no network may contain."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetrt.benchmarks.studies.network_fuzz.layers import Shape, layer


class ClassToken(nn.Module):
    """Pixels as tokens through one head of self-attention."""

    def __init__(self, channels: int, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self._fused = fused

    def forward(self, x: Tensor) -> Any:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        if self._fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, -1) @ v
        return x + self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


@layer
def attention(shape: Shape, fused: bool = False) -> nn.Module:
    """Self-attention over the pixels, with its residual."""
    if shape[1] * shape[2] > 256:
        raise ValueError("too many pixels for attention")
    return ClassToken(shape[0], fused)


class Perceptron(nn.Module):
    """Two Linear layers over the last axis: channels-last features, or pixels (MLP-Mixer)."""

    def __init__(self, width: int, over_pixels: bool, residual: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self._over_pixels, self._residual = over_pixels, residual

    def forward(self, x: Tensor) -> Any:
        tokens = x.flatten(2) if self._over_pixels else x.permute(0, 2, 3, 1)
        mixed = self.down(F.gelu(self.up(tokens)))
        out = mixed.unflatten(2, x.shape[2:]) if self._over_pixels else mixed.permute(0, 3, 1, 2)
        return x + out if self._residual else out


@layer
def mlp(shape: Shape, over_pixels: bool = False, residual: bool = False) -> nn.Module:
    """A perceptron over channels or pixels."""
    width = shape[1] * shape[2] if over_pixels else shape[0]
    if width > 144:
        raise ValueError("too wide for a perceptron")
    return Perceptron(width, over_pixels, residual)


class DependsOnBatch(nn.Module):
    """A layer whose answer to one image depends on the other images, on their number, or on chance."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self._kind = kind
        self.norm = nn.BatchNorm2d(channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Any:
        if self._kind == "norm_without_statistics":
            return self.norm(x)
        if self._kind == "softmax_over_batch":
            return x * torch.softmax(x, 0)
        if self._kind == "mean_over_batch":
            return x - x.mean(0, keepdim=True)
        if self._kind == "number":
            return x * 2 if x.shape[0] > 1 else x
        if self._kind == "size":
            return x * (1 + 0.05 * x.shape[0])
        if self._kind == "dropout":
            return F.dropout(x, 0.5, training=True)
        if self._kind == "noise":
            return x + torch.randn_like(x)
        if self._kind == "norm_in_training":
            return F.batch_norm(x, None, None, training=True)
        raise ValueError(self._kind)


TRAPS = (
    "norm_without_statistics", "softmax_over_batch", "mean_over_batch", "number", "size", "dropout", "noise",
    "norm_in_training",
)  # fmt: skip


@layer
def trap(shape: Shape, kind: str = "softmax_over_batch") -> nn.Module:
    """A layer that export has to refuse."""
    return DependsOnBatch(kind, shape[0])
