"""Cross-layer equalization: the network stays what it is, and channels of different range share a scale better."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_models
from onnx import TensorProto, helper, numpy_helper
from small_data import Calibrated, dataset_of, recipe, smooth_frames

from resnetrt.benchmarks.verify.bisect import onnx_features
from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.layer_report import layer_report
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.graph.structure import weighted_layers
from resnetrt.calibration.imports.trt_cache import cache_text
from resnetrt.calibration.observe import collect
from resnetrt.calibration.observe.collect import calibrate, calibrate_bundle
from resnetrt.calibration.observe.equalize import equalize, find_factors, noted_factors
from resnetrt.calibration.quantize.quantize import QuantizeOptions, load_record, quantize_model
from resnetrt.calibration_record import FILE, CalibrationRecord, recorded_amax
from resnetrt.errors import UsageError
from resnetrt.export.variants.parity import run_onnx
from resnetrt.parity import sqnr_db

FindCalibrated = Callable[[str], Calibrated]
Array = np.ndarray[Any, np.dtype[Any]]


def load(path: Path) -> ir.Model:
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.load(str(path))))


def amax_of(record: CalibrationRecord) -> dict[str, Array]:
    return {name: item.channel_amax for name, item in record.tensors.items()}


def spread(path: Path, target: Path, factor: float) -> Path:
    """The same network, every second channel between the first block's convolutions made `factor` times as large."""
    model = load(path)
    first, second = [layer for layer in weighted_layers(model.graph) if (layer.name or "").startswith("stages.0.0.")][
        :2
    ]
    source = second.inputs[0]
    assert source is not None
    assert source.name is not None
    width = int(source.shape[1])  # type: ignore[index, call-overload]
    small = np.where(np.arange(width) % 2, 1 / factor, 1.0)
    equalize(model.graph, {first.outputs[0].name or "": small, source.name: small})
    ir.save(model, str(target))
    return target


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_the_network_stays_what_it_is(calibrated: FindCalibrated, tmp_path: Path, kind: str):
    network = calibrated(kind)
    model = load(network.path)
    factors = find_factors(model.graph, amax_of(network.record))
    assert any((values < 0.9).any() for values in factors.values())
    assert not factors.keys() & {"input", "logits"}
    equalize(model.graph, factors)
    ir.save(model, str(tmp_path / "equalized.onnx"))
    expected, after = (run_onnx(path, network.images[:16]) for path in (network.path, tmp_path / "equalized.onnx"))
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_the_record_is_of_the_equalized_network(calibrated: FindCalibrated, tmp_path: Path, kind: str):
    network = calibrated(kind)
    data = dataset_of(network.frames, network.preprocessing)
    record = calibrate(network.path, data, network.preprocessing, equalized=True)
    model = load(network.path)
    equalize(model.graph, record.equalization)
    ir.save(model, str(tmp_path / "equalized.onnx"))
    again = calibrate(tmp_path / "equalized.onnx", data, network.preprocessing)
    for name, item in record.tensors.items():
        np.testing.assert_allclose(item.channel_amax, again[name].channel_amax, rtol=1e-5)
        np.testing.assert_allclose(record.amax_in_model()[name], network.record[name].amax, rtol=1e-4)
    (tmp_path / FILE).write_bytes(record.to_bytes())
    restored = CalibrationRecord.read(tmp_path / FILE)
    assert restored.equalization.keys() == record.equalization.keys()
    assert all((restored.equalization[name] == values).all() for name, values in record.equalization.items())


@pytest.mark.parametrize("rules", DIALECTS)
def test_channels_spread_by_a_thousand_come_back(calibrated: FindCalibrated, tmp_path: Path, rules: str):
    """A guard with teeth: without equalization the same network loses several decibels."""
    network, kind = calibrated("projection"), "projection"
    path = spread(network.path, tmp_path / "spread.onnx", 1000)
    images = recipe(kind).normalize(smooth_frames(kind, 24, seed=99))
    expected = run_onnx(path, images)
    np.testing.assert_allclose(expected, run_onnx(network.path, images), rtol=1e-3, atol=1e-4)
    decibels = []
    for equalized in (False, True):
        record = calibrate(path, dataset_of(network.frames, recipe(kind)), recipe(kind), equalized)
        target = tmp_path / "int8.onnx"
        target.write_bytes(quantize_model(path, record, DIALECTS[rules], QuantizeOptions()))
        decibels.append(sqnr_db(expected.astype(np.float64), run_onnx(target, images).astype(np.float64)))
    assert decibels[1] > decibels[0] + 3


def test_reports_compare_with_the_network_as_it_was(calibrated: FindCalibrated, tmp_path: Path):
    network = calibrated("projection")
    data = dataset_of(network.frames, network.preprocessing)
    record = calibrate(network.path, data, network.preprocessing, equalized=True)
    path = tmp_path / "int8.onnx"
    path.write_bytes(quantize_model(network.path, record, DIALECTS["cpu"], QuantizeOptions()))
    noted = noted_factors(onnx.load(path))
    assert noted.keys() == record.equalization.keys()
    assert noted_factors(onnx.load(network.path)) == {}
    rows = layer_report(network.path, path, network.images[:8])
    assert min(row.sqnr_db for row in rows) > 20
    names = [name for name in noted if name.startswith("stages") and "relu" in name]
    assert names
    exact, whole = (onnx_features(file, names, network.images[:8])[0] for file in (network.path, path))
    assert min(sqnr_db(exact[name], whole[name]) for name in names) > 20


def test_the_cache_of_tensorrt_and_half_precision_see_the_network_as_it_is(fashion_bundle: Bundle):
    plain = calibrate_bundle(fashion_bundle, "fashion_calib", 16, equalized=False)
    before = recorded_amax(fashion_bundle)
    equalized = calibrate_bundle(Bundle.open(fashion_bundle.path), "fashion_calib", 16)
    assert equalized.equalization
    assert not plain.equalization
    after = recorded_amax(Bundle.open(fashion_bundle.path))
    assert before is not None
    assert after is not None
    for name, amax in before.items():
        np.testing.assert_allclose(after[name], amax, rtol=1e-4)
    assert cache_text(plain)
    with pytest.raises(UsageError, match="of an equalized network; calibrate --no-equalize"):
        cache_text(equalized)


def conv(name: str, source: str, weight: str, target: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight, f"{name}.bias"], [target], name, **attributes)


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], size: int = 4) -> ir.Model:
    shape = ["batch", 4, size, size]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))


def run(model: ir.Model, images: Array) -> Array:
    import onnxruntime

    blob = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


RNG = np.random.default_rng(0)


def weight(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


PARAMETERS = {"a.bias": weight(4), "b.bias": weight(4), "w": weight(4, 4, 1, 1), "v": weight(4, 4, 1, 1)}
GRAPHS: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], bool]] = {
    "two layers": ([conv("a", "input", "w", "x"), conv("b", "x", "v", "logits")], {}, True),
    "groups": ([conv("a", "input", "w", "x"), conv("b", "x", "v", "logits", group=2)], {"v": weight(4, 2, 1, 1)}, True),
    "depthwise": (
        [conv("a", "input", "w", "x"), conv("b", "x", "v", "logits", group=4)],
        {"v": weight(4, 1, 1, 1)},
        True,
    ),
    "a bias that both layers read": (
        [conv("a", "input", "w", "x"), helper.make_node("Conv", ["x", "v", "a.bias"], ["logits"], "b")],
        {},
        True,
    ),
    "a weight used twice": ([conv("a", "input", "w", "x"), conv("b", "x", "w", "logits")], {}, False),
    "a sigmoid": (
        [conv("a", "input", "w", "y"), helper.make_node("Sigmoid", ["y"], ["x"]), conv("b", "x", "v", "logits")],
        {},
        False,
    ),
    "a constant added": (
        [conv("a", "input", "w", "y"), helper.make_node("Add", ["y", "one"], ["x"]), conv("b", "x", "v", "logits")],
        {"one": np.ones(1, np.float32)},
        False,
    ),
    "a mean over channels": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("ReduceMean", ["y", "axes"], ["x"], keepdims=0),
            helper.make_node("Gemm", ["x", "m"], ["logits"]),
        ],
        {"axes": np.array([1, 3]), "m": weight(4, 3)},
        False,
    ),
    "a matrix as stored": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("ReduceMean", ["y", "axes"], ["x"], keepdims=0),
            helper.make_node("Gemm", ["x", "m"], ["logits"]),
        ],
        {"axes": np.array([2, -1]), "m": weight(4, 3)},
        True,
    ),
    "zeros in front of the channels": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("Pad", ["y", "pads"], ["x"]),
            conv("b", "x", "wide", "logits"),
        ],
        {"pads": np.array([0, 1, 0, 0, 0, 2, 0, 0]), "wide": weight(4, 7, 1, 1)},
        True,
    ),
    "ones around": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("Pad", ["y", "pads", "one"], ["x"]),
            conv("b", "x", "v", "logits"),
        ],
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.ones((), np.float32)},
        False,
    ),
    "channels cropped": (
        [conv("a", "input", "w", "y"), helper.make_node("Pad", ["y", "pads"], ["x"]), conv("b", "x", "thin", "logits")],
        {"pads": np.array([0, -1, 0, 0, 0, -1, 0, 0]), "thin": weight(4, 2, 1, 1)},
        False,
    ),
    "flattened": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("GlobalAveragePool", ["y"], ["pooled"]),
            helper.make_node("Reshape", ["pooled", "shape"], ["x"]),
            helper.make_node("Gemm", ["x", "m"], ["logits"]),
        ],
        {"shape": np.array([-1, 4]), "m": weight(4, 3)},
        True,
    ),
    "strips of an image as images": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("Reshape", ["y", "shape"], ["x"]),
            conv("b", "x", "v", "logits"),
        ],
        {"shape": np.array([-1, 4, 2, 4])},
        False,
    ),
    "channels in reverse": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("Slice", ["y", "last", "first", "one", "back"], ["x"]),
            conv("b", "x", "v", "logits"),
        ],
        {"last": np.array([3]), "first": np.array([-5]), "one": np.array([1]), "back": np.array([-1])},
        False,
    ),
    "rows of an image left out": (
        [
            conv("a", "input", "w", "y"),
            helper.make_node("Slice", ["y", "first", "last", "rows"], ["x"]),
            conv("b", "x", "v", "logits"),
        ],
        {"first": np.array([1]), "last": np.array([3]), "rows": np.array([-2])},
        True,
    ),
    "a bias that is computed": (
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["bias"], keepdims=0),
            helper.make_node("Conv", ["input", "w", "bias"], ["x"], "a"),
            conv("b", "x", "v", "logits"),
        ],
        {"axes": np.array([0, 2, 3])},
        False,
    ),
    "a matrix added to an image": (
        [
            conv("a", "input", "w", "x"),
            helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
            helper.make_node("Add", ["x", "m"], ["y"]),
            conv("b", "y", "v", "logits"),
        ],
        {"axes": np.array([0, 3])},
        False,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_factors_go_only_where_the_result_stays(name: str):
    nodes, more, possible = GRAPHS[name]
    used = {text for node in nodes for text in node.input}
    model = graph_of(nodes, {key: array for key, array in (PARAMETERS | more).items() if key in used})
    images = RNG.standard_normal((3, 4, 4, 4)).astype(np.float32)
    before = run(model, images)
    width = {"zeros in front of the channels": 7, "channels cropped": 2}.get(name, 4)
    factors = find_factors(model.graph, {"x": np.geomspace(1, 1e-4, width)})
    assert ("x" in factors) == possible
    equalize(model.graph, factors)
    np.testing.assert_allclose(run(model, images), before, rtol=1e-4, atol=1e-5)


def test_dead_channels_are_left_alone(calibrated: FindCalibrated):
    network = calibrated("projection")
    amax = amax_of(network.record)
    name = next(name for name in amax if name.startswith("stages.0.0.") and "relu" in name)
    amax[name] = np.array([0.0, 1.0, 1e-9, 0.25])
    factors = find_factors(load(network.path).graph, amax)
    np.testing.assert_allclose(factors[name], [1.0, 1.0, 1e-3, 0.5])


def test_factors_that_change_the_network_are_left_out(
    calibrated: FindCalibrated, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    network = calibrated("projection")
    data = dataset_of(network.frames, network.preprocessing)
    name = next(name for name in network.record.tensors if "relu" in name)
    wrong = {name: np.linspace(0.5, 1, len(network.record[name].channel_amax))}  # divided by no producer alone
    monkeypatch.setattr(collect, "find_factors", lambda graph, amax: wrong)
    with caplog.at_level("WARNING", "resnetrt.calibration"):
        record = calibrate(network.path, data, network.preprocessing, equalized=True)
    assert "channels are not equalized: the network would compute something else (max abs error" in caplog.text
    assert record.equalization == {}
    np.testing.assert_array_equal(record[name].channel_amax, network.record[name].channel_amax)


def test_a_record_that_changes_the_network_is_refused(fashion_bundle: Bundle):
    record = load_record(fashion_bundle)
    halved = {name: values / (2 if "relu" in name else 1) for name, values in record.equalization.items()}
    assert halved.keys() & record.tensors.keys()
    spoilt = replace(record, equalization=halved)
    with fashion_bundle.edit() as editor:
        editor.write(FILE, spoilt.to_bytes())
    with pytest.raises(UsageError, match=r"equalization of its calibration record changes the network .*calibrate"):
        load_record(Bundle.open(fashion_bundle.path))
