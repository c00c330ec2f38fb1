"""The layer report: figures against numpy, and a planted fault shows in its own layer alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
import tiny_bundle
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from small_data import Calibrated

from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.layer_report import explain_variant, layer_report
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model, quantize_variant
from resnetrt.errors import CheckFailed
from resnetrt.export.variants.parity import run_onnx
from resnetrt.parity import sqnr_db

FindCalibrated = Callable[[str], Calibrated]


def quantized(network: Calibrated, folder: Path, rules: str = "cpu", method: str = "mse") -> Path:
    path = folder / "int8.onnx"
    path.write_bytes(quantize_model(network.path, network.record, DIALECTS[rules], QuantizeOptions(method)))
    return path


def change(path: Path, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The file with one initializer changed."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(edit(onnx.numpy_helper.to_array(tensor)), name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("rules", DIALECTS)
@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_every_layer_and_add_has_a_row(calibrated: FindCalibrated, tmp_path: Path, kind: str, rules: str):
    network = calibrated(kind)
    rows = layer_report(network.path, quantized(network, tmp_path, rules), network.images)
    nodes = [node for node in onnx.load(network.path).graph.node if node.op_type in ("Conv", "Gemm", "Add")]
    assert [row.layer for row in rows] == [node.name for node in nodes]
    for row in rows:
        assert row.own_sqnr_db > 25
        assert row.sqnr_db <= row.own_sqnr_db + 3
        assert row.input in network.record.tensors
        assert row.low is not None
        assert row.high is not None
        assert row.low <= 0 < row.high
        assert 0 <= row.clipped <= row.saturated <= 1


def test_the_whole_networks_figures(calibrated: FindCalibrated, tmp_path: Path):
    network = calibrated("projection")
    rows = {row.layer: row for row in layer_report(network.path, quantized(network, tmp_path), network.images)}
    outputs = [run_onnx(path, network.images) for path in (network.path, tmp_path / "int8.onnx")]
    assert rows["fc"].sqnr_db == pytest.approx(sqnr_db(*outputs), abs=0.7)
    assert rows["stem.conv"].sqnr_db == pytest.approx(rows["stem.conv"].own_sqnr_db)
    first = rows["stem.conv"]
    assert (first.input, first.minimum, first.maximum) == ("input", network.images.min(), network.images.max())


def test_clipping_and_saturation_are_shares_of_values(calibrated: FindCalibrated, tmp_path: Path):
    network = calibrated("plain")
    path = change(quantized(network, tmp_path, "tensorrt", "minmax"), "input.scale", lambda scale: scale / 2)
    row = layer_report(network.path, path, network.images)[0]
    assert row.step is not None
    limits = (-128 * row.step, 127 * row.step)
    assert (row.low, row.high) == pytest.approx(limits)
    outside = (network.images > limits[1] + row.step / 2) | (network.images < limits[0] - row.step / 2)
    assert row.clipped == pytest.approx(outside.mean(), abs=1e-9)
    assert row.clipped > 0.02
    integers = np.clip(np.rint(network.images / row.step), -128, 127)
    assert row.saturated == pytest.approx(((integers == -128) | (integers == 127)).mean(), abs=1e-3)


def test_a_planted_fault_shows_in_its_own_layer_alone(calibrated: FindCalibrated, tmp_path: Path):
    network = calibrated("projection")
    path = quantized(network, tmp_path)
    right = {row.layer: row for row in layer_report(network.path, path, network.images)}
    change(path, "stages.0.1.conv1.conv.weight.scale", lambda scales: scales[::-1].copy())
    wrong = {row.layer: row for row in layer_report(network.path, path, network.images)}
    guilty = "stages.0.1.conv1.conv"
    assert wrong[guilty].own_sqnr_db < 20
    for name, row in wrong.items():
        if name != guilty:
            assert row.own_sqnr_db == pytest.approx(right[name].own_sqnr_db, abs=0.01), name
    assert wrong["fc"].sqnr_db < right["fc"].sqnr_db - 3


def test_a_float_file_has_no_noise(calibrated: FindCalibrated):
    network = calibrated("plain")
    rows = layer_report(network.path, network.path, network.images[:5])
    assert {row.sqnr_db for row in rows} == {200.0}
    assert {row.input for row in rows} == {None}


def test_files_without_a_common_layer(calibrated: FindCalibrated, tmp_path: Path):
    model = onnx.load(calibrated("plain").path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"x/{name}" if name not in ("input", "logits") else name for name in names]
    for tensor in model.graph.initializer:
        tensor.name = f"x/{tensor.name}"
    last = model.graph.node[-1]
    last.output[0] = "y"
    model.graph.output[0].name = "y"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckFailed, match=r"other\.onnx: no layer output bears the same name as in plain\.onnx"):
        layer_report(calibrated("plain").path, tmp_path / "other.onnx", calibrated("plain").images)


def test_activations_that_another_tool_left_to_the_integers(calibrated: FindCalibrated, tmp_path: Path):
    """ONNX Runtime's quantizer removes a ReLU in front of uint8 and gives its name to the convolution."""
    network, path = calibrated("projection"), tmp_path / "ort.onnx"
    quantize_static(
        str(network.path),
        str(path),
        tiny_bundle.Reader(network.images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    assert not any(node.op_type == "Relu" for node in onnx.load(path).graph.node)
    rows = layer_report(network.path, path, network.images)
    assert ("Conv", "relu") in {(row.op, row.output) for row in rows}
    assert min(row.own_sqnr_db for row in rows) > 25


def test_of_a_bundle(fashion_bundle: Bundle):
    variant, parity = quantize_variant(fashion_bundle, "cpu", QuantizeOptions())
    rows = explain_variant(fashion_bundle, variant)
    assert len(rows) == 31
    assert rows[-1].sqnr_db == pytest.approx(parity.sqnr_db, abs=1)
    assert min(row.own_sqnr_db for row in rows) > 30
