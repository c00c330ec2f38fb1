"""The saturating shift of a float graph: it computes the same, and every value is what its offset says."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import odd_networks
import onnx
import onnx_ir as ir
import pytest
import small_models
import torch
from small_data import Calibrated, all_values

from resnetrt.benchmarks.studies.network_fuzz.build import build_network, images_of, normalized
from resnetrt.benchmarks.studies.network_fuzz.grammar import draw_network
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.graph.offsets import METADATA, note_offsets, noted_offsets, paddings
from resnetrt.calibration.graph.structure import weighted_layers
from resnetrt.calibration.observe.ranges import QuantParams, affine_uint8, symmetric_int8
from resnetrt.calibration.quantize.placement import place
from resnetrt.calibration.quantize.shift import BORDERS, Border, Shifted, choose_shifted, shift
from resnetrt.export.fold.fold import fold_batch_norms
from resnetrt.export.trace.trace import write_onnx

FindCalibrated = Callable[[str], Calibrated]
SHIFTED_TYPES = {"Conv", "Gemm", "Relu", "MaxPool", "Add", "GlobalAveragePool", "ReduceMean"}


@dataclass
class Rewritten:
    """A network before and after; `values` are those of the file before, by name."""

    model: ir.Model
    shifted: Shifted
    values: dict[str, np.ndarray]
    path: Path

    def differences(self, images: np.ndarray) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        """Name, what is expected and what came of every value that both files have."""
        after = all_values(self.path, images)
        for name in self.values.keys() & after.keys():
            yield name, self.values[name] - np.float32(self.shifted.offsets.get(name, 0.0)), after[name]

    def operators(self) -> list[str]:
        return [node.op_type for node in self.model.graph]


def rewrite(path: Path, images: np.ndarray, target: Path, border: Border) -> Rewritten:
    values = all_values(path, images)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.load(str(path))))
    points = place(model.graph, DIALECTS["tensorrt"])

    def affine(name: str) -> QuantParams:
        low, high = min(float(values[name].min()), 0.0), max(float(values[name].max()), 0.0)
        return QuantParams(1.0, 0, "uint8") if low == high else affine_uint8(low, high, name)

    def symmetric(name: str) -> QuantParams:
        amax = float(np.abs(values[name]).max())
        return symmetric_int8(-amax, amax, name) if amax else QuantParams(1.0, 0, "int8")

    params = {name: symmetric(source) for name, source in points.items()}
    chosen, targets = choose_shifted(model.graph, points, params, affine, border)
    shifted = shift(model.graph, targets, border)
    assert {name: shifted.offsets.get(name, 0.0) for name in targets} == targets
    assert all(chosen[name].scale < params[name].scale for name in targets if targets[name])
    note_offsets(model, shifted.offsets)
    ir.save(model, str(target))
    onnx.checker.check_model(str(target), full_check=True)
    assert noted_offsets(onnx.load(str(target))) == shifted.offsets
    return Rewritten(model, shifted, values, target)


def check_same(rewritten: Rewritten, images: np.ndarray) -> None:
    for name, expected, actual in rewritten.differences(images):
        scale = max(np.abs(expected).max(), np.abs(rewritten.values[name]).max(), 1e-3)
        assert np.abs(actual - expected).max() <= 2e-5 * scale, name


def border_is_real(graph: ir.Graph, shifted: Shifted) -> bool:
    """Whether no padded convolution reads a value whose zero is not zero."""
    return not any(
        paddings(layer) and (layer.inputs[0].name or "") in shifted.offsets  # type: ignore[union-attr]
        for layer in weighted_layers(graph)
    )


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_residual_networks_compute_the_same(calibrated: FindCalibrated, tmp_path: Path, kind: str, border: Border):
    network = calibrated(kind)
    rewritten = rewrite(network.path, network.images[:8], tmp_path / "shifted.onnx", border)
    assert rewritten.shifted.offsets
    check_same(rewritten, network.images[:8])
    assert border_is_real(rewritten.model.graph, rewritten.shifted) or border == "constant"


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_biases_take_every_offset_but_that_of_the_mean(calibrated: FindCalibrated, tmp_path: Path, kind: str):
    """A plain residual network gains Pads at borders, and one subtraction behind its average pool: nothing else."""
    network = calibrated(kind)
    before = [node.op_type for node in onnx.load(network.path).graph.node]
    after = rewrite(network.path, network.images[:8], tmp_path / "shifted.onnx", "pad")
    more = sorted(after.operators())
    for operator in before:
        more.remove("Clip" if operator == "Relu" and operator not in more else operator)
    assert more == ["Pad"] * len(after.shifted.bordered) + ["Sub"]
    layers = [layer for layer in weighted_layers(after.model.graph) if layer.inputs[0].name != "input"]  # type: ignore[union-attr]
    shifted = after.shifted.offsets.keys() | after.shifted.bordered.keys()
    assert all(layer.inputs[0].name in shifted for layer in layers)  # type: ignore[union-attr]


def test_convolutions_of_the_same_border_share_one(calibrated: FindCalibrated, tmp_path: Path):
    """Without it a tensor would be padded for each of its readers."""
    network = calibrated("bottleneck")
    rewritten = rewrite(network.path, network.images[:4], tmp_path / "shifted.onnx", "pad")
    sources = list(rewritten.shifted.bordered.values())
    assert sources
    assert len(sources) == len(set(sources))


def test_unpadded_leaves_padded_convolutions_alone(calibrated: FindCalibrated, tmp_path: Path):
    network = calibrated("bottleneck")
    rewritten = rewrite(network.path, network.images[:8], tmp_path / "shifted.onnx", "unpadded")
    padded = [layer for layer in weighted_layers(rewritten.model.graph) if paddings(layer)]
    assert padded
    assert not any(layer.inputs[0].name in rewritten.shifted.offsets for layer in padded)  # type: ignore[union-attr]
    assert "Pad" not in rewritten.operators()


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("name", odd_networks.NETWORKS)
def test_other_networks_compute_the_same(tmp_path: Path, name: str, border: Border):
    """Concatenation, groups, depthwise, attention, gates, averages over padding: what can't take an offset has none."""
    path = odd_networks.write_fp32(name, tmp_path)
    images = np.random.default_rng(5).normal(size=(4, 3, odd_networks.SIZE, odd_networks.SIZE)).astype(np.float32)
    check_same(rewrite(path, images, tmp_path / "shifted.onnx", border), images)


@pytest.mark.parametrize("seed", [seed for seed in range(14) if seed != 1])  # torch can't export that of 1
def test_random_networks_compute_the_same(tmp_path: Path, seed: int):
    spec = draw_network(seed)
    images = normalized(spec, images_of(spec, 4, 1)).numpy().astype(np.float32)
    fold = fold_batch_norms(build_network(spec), torch.from_numpy(images[:2]))
    write_onnx(fold.program, tmp_path / "fp32.onnx")
    for border in BORDERS:
        check_same(rewrite(tmp_path / "fp32.onnx", images, tmp_path / "shifted.onnx", border), images)


@pytest.mark.parametrize("border", ["pad", "constant"])
def test_the_check_sees_a_wrong_border(calibrated: FindCalibrated, tmp_path: Path, border: Border):
    """A planted fault: the zeros of the padding are taken for real ones."""
    network = calibrated("projection")
    rewritten = rewrite(network.path, network.images[:8], tmp_path / "shifted.onnx", border)
    suffix = ".zero" if border == "pad" else ".border"
    for name, value in rewritten.model.graph.initializers.items():
        if name.endswith(suffix):
            assert value.const_value is not None
            value.const_value = ir.Tensor(np.zeros_like(value.const_value.numpy()), name=name)
    ir.save(rewritten.model, str(rewritten.path))
    with pytest.raises(AssertionError):
        check_same(rewritten, network.images[:8])


def test_nothing_to_shift_changes_nothing(calibrated: FindCalibrated):
    model = ir.load(str(calibrated("plain").path))
    before = model.graph.num_nodes()
    assert shift(model.graph, {"input": 0.0}, "pad") == Shifted()
    note_offsets(model, {})
    assert model.graph.num_nodes() == before
    assert METADATA not in model.metadata_props
