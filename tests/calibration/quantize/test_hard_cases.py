"""Networks and data that break quantizers: SQNR stays above a floor, or a warning or error names the place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models
import torch
from small_data import dataset_of, recipe, smooth_frames
from torch import Tensor, nn

from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.layer_report import LayerRow, layer_report
from resnetrt.calibration.explain.suspects import Clues, find_suspects, layer_weights
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.observe.collect import calibrate
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model, quantize_variant
from resnetrt.calibration_record import CalibrationRecord
from resnetrt.errors import BundleError, CheckFailed, DataError, UsageError
from resnetrt.export.fold.fold import fold_batch_norms
from resnetrt.export.trace.trace import write_onnx
from resnetrt.models.resnet import ResNet, ResNetConfig

KIND = "projection"
Array = np.ndarray[Any, np.dtype[Any]]


class Case:
    """A network through folding, calibration and quantization, judged on images that calibration did not see."""

    def __init__(
        self, module: nn.Module, folder: Path, images: int = 64, frames: Array | None = None, equalized: bool = False
    ) -> None:
        fold = fold_batch_norms(module, small_models.pictures(KIND, 4))
        self.path, self.fold, self.folder = folder / "fp32.onnx", fold.to_json(), folder
        write_onnx(fold.program, self.path)
        seen = smooth_frames(KIND, images) if frames is None else frames
        self.record: CalibrationRecord = calibrate(self.path, dataset_of(seen, recipe(KIND)), recipe(KIND), equalized)
        self.test = recipe(KIND).normalize(smooth_frames(KIND, 24, seed=99))

    def verdicts(self) -> Iterator[tuple[float, list[str]]]:
        """Of every dialect."""
        return (self.judge(rules) for rules in DIALECTS)

    def judge(self, rules: str) -> tuple[float, list[str]]:
        """SQNR of the logits in dB, and the warnings."""
        path = self.folder / "int8.onnx"
        path.write_bytes(quantize_model(self.path, self.record, DIALECTS[rules], QuantizeOptions()))
        self.rows: list[LayerRow] = layer_report(self.path, path, self.test)
        evidence = Clues(self.rows, self.record, layer_weights(self.path), self.fold)
        return self.rows[-1].sqnr_db, [str(suspect) for suspect in find_suspects(evidence)]


def network(depths: tuple[int, ...] = (2, 1)) -> ResNet:
    module = small_models.randomize(ResNet(ResNetConfig("basic", 4, depths, stem="small", num_classes=5)))
    assert isinstance(module, ResNet)
    return module


def scale_channels(module: ResNet, factors: Array) -> None:
    """The same function in floats: channels of the first block's inner tensor times `factors`, undone after it."""
    block: Any = module.stages[0][0]
    factor = torch.tensor(factors, dtype=torch.float32)
    with torch.no_grad():
        block.conv1.bn.weight.mul_(factor)
        block.conv1.bn.bias.mul_(factor)
        block.conv2.conv.weight.div_(factor[None, :, None, None])


INNER = "stages.0.0.conv2.conv"  # the layer that reads that tensor


def test_a_healthy_network_sets_the_standard(tmp_path: Path):
    for sqnr, warnings in Case(network(), tmp_path).verdicts():
        assert sqnr > 38  # measured: 45 (tensorrt) to 47
        assert warnings == []


def test_channels_spread_by_a_thousand(tmp_path: Path):
    """A scale per tensor can't hold both ends. The logits keep 16 dB and parity passes; the layer has 2 dB."""
    module = network()
    scale_channels(module, np.array([0.03, 0.3, 3, 30]))
    for sqnr, warnings in Case(module, tmp_path).verdicts():
        assert sqnr > 30 or any(line.startswith(f"{INNER}: its own quantization leaves ") for line in warnings)
        assert all(line.startswith(f"{INNER}: ") for line in warnings), warnings


def test_logits_spread_by_a_thousand_cost_nothing(tmp_path: Path):
    """Weights have a scale per output channel."""
    module = network()
    with torch.no_grad():
        module.fc.weight.mul_(torch.tensor([1e-3, 1e-2, 0.1, 1, 10])[:, None])
    for sqnr, warnings in Case(module, tmp_path).verdicts():
        assert sqnr > 30
        assert warnings == []


def test_an_outlier_channel(tmp_path: Path):
    module = network()
    scale_channels(module, np.array([1, 1, 300, 1]))
    for sqnr, warnings in Case(module, tmp_path).verdicts():
        named = any(line.startswith(f"{INNER}: channel 2 of its input ") and "integers" in line for line in warnings)
        assert named or sqnr > 30, (sqnr, warnings)
        assert all(line.startswith(f"{INNER}: ") for line in warnings), warnings


def test_nearly_dead_channels(tmp_path: Path):
    """Filters that weight decay killed, with and without a bias left."""
    module = network()
    kill(module, [0, 1e-30, 1e-12], [-1.0, 0.5, -0.5])
    for sqnr, warnings in Case(module, tmp_path).verdicts():
        assert sqnr > 30
        assert [line for line in warnings if "are dead" not in line] == []


def test_mostly_dead_channels(tmp_path: Path):
    module = network()
    kill(module, [0, 0, 0], [-1, -1, -1])
    for sqnr, warnings in Case(module, tmp_path).verdicts():
        assert sqnr > 30
        (line,) = warnings
        assert line.startswith("stages.0.1.conv2.conv: 3 of 4 channels of its input ")
        assert "are dead (always zero)" in line


def kill(module: ResNet, weights: list[float], biases: list[float]) -> None:
    """Give the first channels of an inner BatchNorm these weights and biases."""
    block: Any = module.stages[0][1]
    with torch.no_grad():
        block.conv1.bn.weight[:3] = torch.tensor(weights)
        block.conv1.bn.bias[:3] = torch.tensor(biases)


def test_eight_images(tmp_path: Path):
    for sqnr, warnings in Case(network(), tmp_path, images=8).verdicts():
        assert sqnr > 38
        assert warnings == [
            "calibration: only 8 images; calibrate with 128 or more: "
            "resnetrt calibrate BUNDLE --data FOLDER --samples 128 --overwrite"
        ]


def test_blank_images_are_an_error_that_names_the_tensor(tmp_path: Path):
    """Also where each channel is normalised to another constant."""
    blank = np.full((8, 16, 16, 3), 128, np.uint8)
    with pytest.raises(
        DataError, match=r"tensor \S+ is constant \(.*\) over all images; check that the images are not bl"
    ):
        Case(network(), tmp_path, frames=blank)


def test_nearly_blank_images(tmp_path: Path):
    """Not constant, so they calibrate; but what real images bring lies far outside, and that is said."""
    rng = np.random.default_rng(0)
    dim = (120 + rng.integers(0, 4, (64, 16, 16, 3))).astype(np.uint8)
    for sqnr, warnings in Case(network(), tmp_path, frames=dim).verdicts():
        assert sqnr < 20
        assert any("golden images reach" in line and "in input" in line for line in warnings), warnings
        assert any(line.startswith("stem.conv: ") and "lie outside" in line for line in warnings)


def test_a_batch_norm_with_tiny_variance(tmp_path: Path):
    module = network()
    block: Any = module.stages[0][0]
    with torch.no_grad():
        block.conv1.bn.running_var[1] = 1e-9
    for sqnr, warnings in Case(module, tmp_path).verdicts():
        assert sqnr > 30
        assert any(line.startswith("stages.0.0.conv1.bn: running variance of at most eps in 1 ch") for line in warnings)


@pytest.mark.parametrize("shift", [0.0, 0.3], ids=["zero", "constant"])
def test_a_branch_that_adds_nothing_yet(tmp_path: Path, shift: float):
    """The last BatchNorm of a residual branch starts with scale 0 (Goyal et al. 2017): its output is constant."""
    module = network()
    last: Any = module.stages[0][1].conv2.bn
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(shift)
    case = Case(module, tmp_path)
    constant = [item for item in case.record.tensors.values() if item.minimum == item.maximum]
    assert [item.maximum for item in constant] == [pytest.approx(shift)]
    for sqnr, _ in case.verdicts():
        assert sqnr > 30


def test_a_projection_that_adds_nothing_yet(tmp_path: Path):
    module = network()
    last: Any = module.stages[1][0].shortcut.bn
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    for sqnr, _ in Case(module, tmp_path).verdicts():
        assert sqnr > 30


class ChannelSplit(nn.Module):
    """Two convolutions that read the halves of one tensor, as in CSP and Res2Net; one half is ten times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low, self.high = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)
        small_models.randomize(self)
        with torch.no_grad():
            self.stem.weight[4:].mul_(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return (self.low(x[:, :4]).relu() + self.high(x[:, 4:])).mean((2, 3))


def test_the_halves_of_a_channel_split_keep_their_own_ranges(tmp_path: Path):
    for sqnr, warnings in Case(ChannelSplit(), tmp_path).verdicts():
        assert sqnr > 35, sqnr
        assert warnings == []


def test_a_file_without_shapes_of_inner_values(tmp_path: Path):
    case = Case(network(), tmp_path)
    model = onnx.load(case.path)
    assert model.graph.value_info
    del model.graph.value_info[:]
    bare = tmp_path / "bare.onnx"
    onnx.save(model, bare)
    record = calibrate(bare, dataset_of(smooth_frames(KIND, 64), recipe(KIND)), recipe(KIND))
    assert record.tensors.keys() == case.record.tensors.keys()
    for name, statistics in record.tensors.items():
        np.testing.assert_array_equal(statistics.counts, case.record.tensors[name].counts)
    case.path = bare
    assert all(sqnr > 30 for sqnr, _ in case.verdicts())


def test_a_tensor_whose_axes_nobody_knows_is_named(tmp_path: Path):
    case = Case(network(), tmp_path)
    model = onnx.load(case.path)
    del model.graph.value_info[:]
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Gelu", "com.microsoft"  # ONNX Runtime knows it, ONNX's shape inference does not
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    bare = tmp_path / "bare.onnx"
    onnx.save(model, bare)
    with pytest.raises(BundleError, match=rf"number of axes of tensor {relu.output[0]} is unknown; export"):
        calibrate(bare, dataset_of(smooth_frames(KIND, 8), recipe(KIND)), recipe(KIND))


def test_depth_110(tmp_path: Path):
    """18 blocks a stage, as in He et al. 2016; the noise of 110 layers adds up, though each has 29 dB of its own."""
    case = Case(network((18, 18, 18)), tmp_path, images=32)
    for sqnr, warnings in case.verdicts():
        assert sum(row.op in ("Conv", "Gemm") and "shortcut" not in row.layer for row in case.rows) == 110
        assert sqnr > 16, sqnr
        assert min(row.own_sqnr_db for row in case.rows) > 25
        assert warnings == []


@pytest.mark.parametrize("rules", ["cpu", "tensorrt"])
def test_entropy_on_images_with_a_constant_background(fashion_bundle: Bundle, rules: str):
    """KL prefers to clip a tenth of the values; the collapse is refused, with the layer and the remedy."""
    with pytest.raises(CheckFailed, match=r"Suspicious: (stem|stages)\S+: .*try quantize --method minmax"):
        quantize_variant(fashion_bundle, rules, QuantizeOptions("entropy"))


class Folded(nn.Module):
    """Pixels folded into channels, channels cropped, strips of an image as a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(12, 20, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)
        with torch.no_grad():
            self.first.weight.mul_(torch.logspace(-1.5, 0.5, 20)[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(nn.functional.pixel_unshuffle(x, 2)).relu()
        y = self.second(nn.functional.pad(y, (0, 0, 0, 0, -2, -2))).relu()
        n, c, h, w = y.shape
        y = self.third(y.reshape(-1, c, h // 4, w)).relu().mean((2, 3))
        return self.fc(y.reshape(n, 4, c).mean(1))


class Mixer(nn.Module):
    """Linear layers over the channels of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 24, 4, 4), nn.Linear(24, 5)
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).permute(0, 2, 3, 1)
        return self.fc((y + self.mlp(y)).mean((1, 2)))


@pytest.mark.parametrize("equalized", [False, True])
def test_axes_that_are_folded_and_unfolded(tmp_path: Path, equalized: bool):
    torch.manual_seed(0)
    case = Case(Folded().eval(), tmp_path, equalized=equalized)
    for sqnr, warnings in case.verdicts():
        assert sqnr > 30, warnings


def test_linear_layers_over_the_last_axis_become_integers(tmp_path: Path):
    torch.manual_seed(0)
    case = Case(Mixer().eval(), tmp_path, equalized=True)
    for rules in DIALECTS:
        sqnr, warnings = case.judge(rules)
        assert sqnr > 30, warnings
        model = onnx.load(case.folder / "int8.onnx")
        made = {output: node.op_type for node in model.graph.node for output in node.output}
        products = [node for node in model.graph.node if node.op_type == "MatMul"]
        assert len(products) == 2
        assert {made.get(name) for node in products for name in node.input} == {"DequantizeLinear"}


def test_pixels_need_a_first_convolution(tmp_path: Path):
    torch.manual_seed(0)
    case = Case(Folded().eval(), tmp_path)
    for rules in DIALECTS.values():
        options = QuantizeOptions(input="uint8")
        with pytest.raises(UsageError, match="must be all that reads the input, found Reshape"):
            quantize_model(case.path, case.record, rules, options, preprocessing=recipe(KIND))
