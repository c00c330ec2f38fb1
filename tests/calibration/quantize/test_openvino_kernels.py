"""What OpenVINO computes otherwise than a file says, and its dialect leaves float for that.

A quantization behind a maximum is fused into it, and the result cut to integers first. Where zero is not the integer 0,
channels that are added get other values, and an average over padding takes other values. A normalization of integers
forgets that eps is not in their units.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
import torch
from small_data import dataset_of, recipe, smooth_frames
from torch import Tensor, nn

from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.observe.collect import calibrate
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model
from resnetrt.export.fold.fold import fold_batch_norms
from resnetrt.export.trace.trace import write_onnx
from resnetrt.export.variants.parity import run_onnx
from resnetrt.runtime.backends.openvino import properties, shared_core

KIND, CHANNELS, CLASSES = "projection", 8, 6


class Pooled(nn.Module):
    """Convolution, `pool` to a vector, a linear layer."""

    def __init__(self, pool: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS)
        self.pool, self.fc = pool, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(self.bn(self.conv(x))))
        return out


class SpatialGate(nn.Module):
    """The mean and the maximum of each pixel's channels gate it (CBAM, Woo et al. 2018, arXiv:1807.06521)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Conv2d(2, 1, 7, padding=3)
        self.fc = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        out: Tensor = self.fc((x * self.gate(seen).sigmoid()).mean((2, 3)))
        return out


class MoreChannels(nn.Module):
    """A shortcut that adds channels of zeros (He et al. 2016, option A) to a signed tensor, `moved` or as it is."""

    def __init__(self, moved: Callable[[Tensor], Tensor], stride: int = 1) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Linear(2 * CHANNELS, CLASSES)
        self.body, self.moved = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, stride, 1), moved

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        more = nn.functional.pad(self.moved(x), (0, 0, 0, 0, CHANNELS // 2, CHANNELS - CHANNELS // 2))
        out: Tensor = self.fc((more + self.body(x)).mean((2, 3)))
        return out


class PaddedAverage(nn.Module):
    """An average over signed pixels and the zeros around them, beside a convolution that reads the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.body = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.fc = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        average = nn.functional.avg_pool2d(x, 3, 1, 1)
        out: Tensor = self.fc((average + self.body(x)).abs().mean((2, 3)))
        return out


class Faint(nn.Module):
    """A normalization of values whose variance is near its eps; `quantized` if a convolution reads them too."""

    def __init__(self, normalize: Callable[[Tensor], Tensor], quantized: bool = False) -> None:
        super().__init__()
        self.conv, self.body = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.normalize, self.quantized, self.fc = normalize, quantized, nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.conv(x) * 1e-3).relu()
        y = self.normalize(x)
        out: Tensor = self.fc((y + self.body(x) if self.quantized else y).mean((2, 3)))
        return out


def standardized(x: Tensor) -> Tensor:
    """InstanceNorm in single operators."""
    x = x - x.mean((2, 3), keepdim=True)
    return x / (x.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def of_length_one(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-5).sqrt()


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def highest(x: Tensor) -> Tensor:
    return x.amax((2, 3))


def lowest(x: Tensor) -> Tensor:
    return x.amin((2, 3))


NORMALIZATIONS = {
    "instance norm": nn.functional.instance_norm,
    "group norm": lambda x: nn.functional.group_norm(x, 2),
    "layer norm": lambda x: nn.functional.layer_norm(x, x.shape[1:]),
    "standardized": standardized,
    "length one": of_length_one,
}
NORMALIZED = {
    f"{name}{' of integers' * quantized}": partial(Faint, normalize, quantized)
    for quantized in (False, True)
    for name, normalize in NORMALIZATIONS.items()
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "maximum": lambda: Pooled(highest, CHANNELS),
    "minimum": lambda: Pooled(lowest, CHANNELS),
    "mean beside maximum": lambda: Pooled(lambda x: torch.cat([mean(x), highest(x)], 1), 2 * CHANNELS),
    "maximum beside minimum": lambda: Pooled(lambda x: torch.cat([highest(x), lowest(x)], 1), 2 * CHANNELS),
    "scaled maximum": lambda: Pooled(lambda x: highest(x) * 1.5, CHANNELS),
    "sigmoid of a maximum": lambda: Pooled(lambda x: highest(x).sigmoid(), CHANNELS),
    "activated, then joined": lambda: Pooled(
        lambda x: torch.cat([mean(x), nn.functional.hardswish(highest(x))], 1), 2 * CHANNELS
    ),
    "mean plus maximum": lambda: Pooled(lambda x: mean(x) + highest(x), CHANNELS),
    "spatial gate": SpatialGate,
    "more channels": lambda: MoreChannels(lambda x: x),
    "more channels of every other pixel": lambda: MoreChannels(lambda x: x[:, :, ::2, ::2], 2),
    "average over padding": PaddedAverage,
    **NORMALIZED,
}
# whose linear layer reads integers all the same
QUANTIZED = {"maximum", "minimum", "mean plus maximum", "spatial gate", *NORMALIZED} | {
    *("more channels", "more channels of every other pixel", "average over padding"),
}


def quantized(module: nn.Module, folder: Path) -> bytes:
    """Its file in the dialect for OpenVINO."""
    write_onnx(
        fold_batch_norms(small_models.randomize(module), small_models.pictures(KIND, 4)).program, folder / "fp32.onnx"
    )
    record = calibrate(folder / "fp32.onnx", dataset_of(smooth_frames(KIND, 32), recipe(KIND)), recipe(KIND))
    return quantize_model(folder / "fp32.onnx", record, DIALECTS["cpu"], QuantizeOptions(reduce_range=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_computes_what_the_file_says(name: str, tmp_path: Path):
    """Measured: 1e-7 of the logits; 0.05 to 1 where the dialect left nothing float."""
    file = quantized(NETWORKS[name](), tmp_path)
    images = recipe(KIND).normalize(smooth_frames(KIND, 12, seed=99))
    compiled = shared_core().compile_model(shared_core().read_model(file), "CPU", properties("int8", 1))
    values = compiled([images])[0]
    expected = run_onnx(file, images, as_written=True)
    assert np.linalg.norm(values - expected) < 1e-3 * np.linalg.norm(expected)
    linear = next(node for node in onnx.load_from_string(file).graph.node if node.op_type == "Gemm")
    assert linear.input[0].endswith(".dequantized") == (name in QUANTIZED)
