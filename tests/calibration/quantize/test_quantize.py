"""The quantized file against an independent simulation in numpy, and the variant in the bundle."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import small_models
import tiny_bundle
from small_data import dataset_of

from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import DIALECTS, Dialect
from resnetrt.calibration.images.data import open_dataset
from resnetrt.calibration.observe.collect import calibrate
from resnetrt.calibration.quantize import insert_qdq, quantize
from resnetrt.calibration.quantize.quantize import (
    QuantizeOptions,
    load_record,
    quantize_model,
    quantize_variant,
)
from resnetrt.calibration_record import CalibrationRecord
from resnetrt.cli import run
from resnetrt.errors import BundleError, CheckFailed, UsageError
from resnetrt.export.variants.lint import check_onnx
from resnetrt.export.variants.parity import run_onnx
from resnetrt.parity import sqnr_db

Array = np.ndarray[Any, np.dtype[Any]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_as_written(blob: bytes, images: Array, *extra: str) -> dict[str, Array]:
    """All outputs and the named values by ONNX Runtime without any graph optimisation, so Q/DQ run as they stand."""
    model = onnx.load_model_from_string(blob)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


@dataclass(frozen=True)
class Tiny:
    """stem conv, relu, conv, add of the relu, relu, pool, gemm: see `tiny_bundle`."""

    path: Path
    record: CalibrationRecord
    images: Array


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    tiny_bundle.write_onnx(path)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    frames, preprocessing = tiny_bundle.frames(40), tiny_bundle.PREPROCESSING
    record = calibrate(path, dataset_of(frames, preprocessing), preprocessing)
    return Tiny(path, record, preprocessing.normalize(frames))


class Simulation:
    """Fake quantization written down by hand from the design's table, in float64."""

    def __init__(self, tiny: Tiny, rules: Dialect, weight_max: int) -> None:
        self.record, self.rules, self.weight_max = tiny.record, rules, weight_max
        self.weights = {name: array.astype(np.float64) for name, array in tiny_bundle.weights().items()}
        self.integers: dict[str, Array] = {}
        self.scales: dict[str, float] = {}

    def activation(self, name: str, x: Array) -> Array:
        low, high = min(self.record[name].minimum, 0.0), max(self.record[name].maximum, 0.0)
        if self.rules.symmetric:
            scale, zero, limits = np.float32(max(-low, high) / 127), 0, (-128, 127)
        else:
            scale = np.float32((high - low) / 255)
            zero, limits = round(-low / float(scale)), (0, 255)
        scale = float(scale)
        self.integers[name] = np.clip(np.rint(x / scale) + zero, *limits)
        self.scales[name] = scale
        return (self.integers[name] - zero) * scale

    def layer(self, name: str, source: str) -> tuple[Array, Array]:
        """Weight and bias as the integers represent them."""
        weight, bias = self.weights[f"{name}.w"], self.weights[f"{name}.b"]
        flat = weight.reshape(len(weight), -1)
        scale = (np.abs(flat).max(1) / self.weight_max).astype(np.float32).astype(np.float64)
        rounded = (np.rint(flat / scale[:, None]) * scale[:, None]).reshape(weight.shape)
        error = (rounded - weight).reshape(*weight.shape[:2], -1).sum(2)
        bias = bias - error @ self.record[source].channel_mean  # what rounding adds to the mean
        if self.rules.integer_bias:
            step = scale * self.scales[source]
            bias = np.rint(bias / step) * step
        return rounded, bias

    def run(self, images: Array) -> Array:
        x = self.activation("input", images.astype(np.float64))
        stem = np.maximum(tiny_bundle._conv(x, *self.layer("stem", "input")), 0)
        stem = self.activation("r", stem)  # read by the convolution and by the shortcut
        main = tiny_bundle._conv(stem, *self.layer("conv", "r"))
        if self.rules.every_output:
            main = self.activation("c", main)
        pooled = np.maximum(main + stem, 0).mean((2, 3))
        weight, bias = self.layer_after(pooled)
        return self.pooled @ weight.T + bias

    def layer_after(self, pooled: Array) -> tuple[Array, Array]:
        self.pooled = self.activation("f", pooled)
        return self.layer("fc", "f")


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("rules", DIALECTS)
def test_the_file_computes_what_the_simulation_does(tiny: Tiny, rules: str, reduce_range: bool):
    blob = quantize_model(tiny.path, tiny.record, DIALECTS[rules], QuantizeOptions("minmax", reduce_range))
    simulation = Simulation(tiny, DIALECTS[rules], 63 if reduce_range else 127)
    expected = simulation.run(tiny.images)
    values = run_as_written(blob, tiny.images, *(f"{name}.quantized" for name in simulation.integers))
    for name, integers in simulation.integers.items():
        difference = np.abs(values[f"{name}.quantized"].astype(int) - integers.astype(int))
        # float32 against float64 sums: a value on the border between two integers may fall to either
        assert difference.max() <= 1, name
        assert (difference != 0).mean() < 1e-3, name
    error = np.abs(values["logits"] - expected)
    assert np.median(error) < 1e-4
    assert error.max() < 0.02 * np.abs(expected).max()
    # and it is no float model: rounding shows
    assert 15 < sqnr_db(tiny_bundle.reference(tiny.images), values["logits"]) < 60


@pytest.mark.parametrize("rules", DIALECTS)
def test_the_optimized_graph_agrees_with_the_one_as_written(tiny: Tiny, rules: str, tmp_path: Path):
    """7-bit weights can't saturate the 16-bit sums of CPUs without VNNI."""
    blob = quantize_model(tiny.path, tiny.record, DIALECTS[rules], QuantizeOptions("minmax", reduce_range=True))
    (tmp_path / "int8.onnx").write_bytes(blob)
    fused = run_onnx(tmp_path / "int8.onnx", tiny.images)
    assert sqnr_db(run_as_written(blob, tiny.images)["logits"], fused) > 30


def test_each_method_gives_another_file_and_the_same_one_twice(tiny: Tiny):
    blobs = [
        quantize_model(tiny.path, tiny.record, DIALECTS[rules], QuantizeOptions(method))
        for rules in DIALECTS
        for method in ("minmax", "percentile", "mse")
    ]
    assert len(set(blobs)) == 3 * len(DIALECTS)
    assert blobs[0] == quantize_model(tiny.path, tiny.record, DIALECTS[next(iter(DIALECTS))], QuantizeOptions("minmax"))


def stored(blob: bytes) -> dict[str, Array]:
    model = onnx.load_model_from_string(blob)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_reduced_range_keeps_weights_to_seven_bits(tiny: Tiny):
    for reduce_range, largest in ((False, 127), (True, 63)):
        blob = quantize_model(tiny.path, tiny.record, DIALECTS["cpu"], QuantizeOptions("mse", reduce_range))
        arrays = stored(blob)
        for name in ("stem.w", "conv.w", "fc.w"):
            integers = arrays[f"{name}.quantized"].astype(int)
            assert (np.abs(integers).reshape(len(integers), -1).max(1) == largest).all()


def test_bias_that_would_not_fit_into_int32_widens_its_channels_scale(tiny: Tiny, tmp_path: Path):
    """Dead and nearly dead channels: no weights to speak of, but a real bias or none."""
    model = onnx.load(tiny.path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight, bias = (onnx.numpy_helper.to_array(tensors[name]).copy() for name in ("conv.w", "conv.b"))
    weight[0] *= 1e-12
    weight[1] = 0
    weight[2] *= 1e-40
    bias[:3] = [1.5, -0.75, 0]
    tensors["conv.w"].CopyFrom(onnx.numpy_helper.from_array(weight, "conv.w"))
    tensors["conv.b"].CopyFrom(onnx.numpy_helper.from_array(bias, "conv.b"))
    onnx.save(model, tmp_path / "dead.onnx")
    rules = next(rules for rules in DIALECTS.values() if rules.integer_bias)
    options = QuantizeOptions("minmax", reduce_range=False, bias_correction=False)
    arrays = stored(quantize_model(tmp_path / "dead.onnx", tiny.record, rules, options))
    restored = arrays["conv.b.quantized"] * arrays["conv.b.scale"].astype(np.float64)
    np.testing.assert_allclose(restored[:3], [1.5, -0.75, 0], rtol=1e-6)
    assert np.abs(arrays["conv.b.quantized"].astype(np.int64)).max() <= 2**31 - 1
    assert (arrays["conv.w.scale"] > 0).all()
    assert (arrays["conv.b.scale"] >= np.finfo(np.float32).tiny).all()
    free = stored(quantize_model(tmp_path / "dead.onnx", tiny.record, DIALECTS["tensorrt"], options))
    np.testing.assert_array_equal(free["conv.w.scale"][3:], arrays["conv.w.scale"][3:])
    np.testing.assert_array_equal(free["conv.b"], bias)


@pytest.mark.parametrize("make", [small_models.SharedConv, small_models.PreActivation, small_models.ConvUsedTwice])
def test_unusual_networks(make: Callable[[], Any], tmp_path: Path):
    path = tmp_path / "net.onnx"
    small_models.trace_to_onnx(small_models.randomize(make()), (3, 16, 16), path)
    frames, preprocessing = tiny_bundle.frames(20), tiny_bundle.PREPROCESSING
    record = calibrate(path, dataset_of(frames, preprocessing), preprocessing)
    images = preprocessing.normalize(frames)
    for rules in DIALECTS.values():
        (tmp_path / "int8.onnx").write_bytes(quantize_model(path, record, rules, QuantizeOptions()))
        check_onnx(tmp_path / "int8.onnx")
        assert sqnr_db(run_onnx(path, images), run_onnx(tmp_path / "int8.onnx", images)) > 25


def test_what_is_kept_float_reads_and_holds_floats(tiny: Tiny):
    keep = frozenset({"conv", "add"})
    blob = quantize_model(tiny.path, tiny.record, DIALECTS["cpu"], QuantizeOptions(), keep)
    nodes = {node.name: node for node in onnx.load_model_from_string(blob).graph.node}
    assert list(nodes["conv"].input) == ["r", "conv.w", "conv.b"]
    assert list(nodes["add"].input) == ["c", "r"]
    assert nodes["stem"].input[0] == "input.dequantized"
    assert nodes["fc"].input[0] == "f.dequantized"
    everything = frozenset({"stem", "conv", "add", "fc"})
    blob = quantize_model(tiny.path, tiny.record, DIALECTS["cpu"], QuantizeOptions(), everything)
    np.testing.assert_array_equal(
        run_as_written(blob, tiny.images)["logits"], run_as_written(tiny.path.read_bytes(), tiny.images)["logits"]
    )


def test_a_gemm_with_weights_not_transposed(tiny: Tiny, tmp_path: Path):
    model = onnx.load(tiny.path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.w")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).T.copy(), "fc.w"))
    gemm = model.graph.node[-1]
    del gemm.attribute[:]
    onnx.save(model, tmp_path / "gemm.onnx")
    for rules in DIALECTS.values():
        one = quantize_model(tiny.path, tiny.record, rules, QuantizeOptions())
        two = quantize_model(tmp_path / "gemm.onnx", tiny.record, rules, QuantizeOptions())
        np.testing.assert_array_equal(stored(one)["fc.w.quantized"], stored(two)["fc.w.quantized"].T)
        logits = [run_as_written(blob, tiny.images)["logits"] for blob in (one, two)]
        np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_a_record_without_a_tensor_of_the_model(tiny: Tiny):
    record = CalibrationRecord("x", "a", (), {"input": tiny.record["input"]})
    with pytest.raises(
        UsageError, match="the calibration record has no tensor r; run again: resnetrt calibrate BUNDLE --data FOLDER"
    ):
        quantize_model(tiny.path, record, DIALECTS["cpu"], QuantizeOptions())


def test_an_invalid_file_is_refused(tmp_path: Path):
    (tmp_path / "int8.onnx").write_bytes(b"nonsense")
    with pytest.raises(CheckFailed, match=r"int8\.onnx: onnx\.checker: "):
        check_onnx(tmp_path / "int8.onnx")


# Measured on 2,000 test images: 37.7 dB (cpu), 33.0 dB (tensorrt, half the resolution behind a ReLU). Rounding alone
# gives that; one wrong scale or zero point of the 21 layers costs more than the 5 dB left here.
FLOORS_DB = {"cpu": 32.0, "tensorrt": 28.0}


def test_sqnr_of_the_embedded_network(exported_fashion: Path):
    bundle = Bundle.open(exported_fashion)
    preprocessing = bundle.manifest.preprocessing
    frames = next(iter(open_dataset("fashion_test", preprocessing).batches(256))).frames
    images = preprocessing.normalize(frames)
    reference = run_onnx(bundle.variant_file("fp32"), images)
    decibels = {}
    for name, rules in DIALECTS.items():
        blob = quantize_model(bundle.variant_file("fp32"), load_record(bundle), rules, QuantizeOptions())
        logits = run_as_written(blob, images)["logits"]
        decibels[name] = sqnr_db(reference, logits)
        assert (logits.argmax(1) == reference.argmax(1)).mean() > 0.98
    assert all(decibels[name] > floor for name, floor in FLOORS_DB.items()), decibels
    assert decibels["cpu"] > decibels["tensorrt"]


@pytest.mark.parametrize("rules", DIALECTS)
def test_the_variant_in_the_bundle(fashion_bundle: Bundle, rules: str):
    before = contents(fashion_bundle.path)
    variant, parity = quantize_variant(fashion_bundle, rules, QuantizeOptions("percentile"))
    opened = Bundle.open(fashion_bundle.path)
    assert variant == f"int8.{rules}"
    record = opened.manifest.variants[variant]
    assert (record.precision, record.dialect, record.input) == ("int8", rules, "float32")
    assert record.evidence["parity"] == parity.to_json()
    assert record.evidence["method"] == "percentile"
    assert record.evidence["calibration_sha256"] == opened.manifest.files["calibration.safetensors"].sha256
    assert (record.evidence["calibration_dataset"], record.evidence["calibration_images"]) == ("fashion_calib", 256)
    after = contents(fashion_bundle.path)
    assert after.keys() - before.keys() == {
        f"{variant}.onnx",
        f"golden/{variant}.safetensors",
        f"outlines/{variant}.json",
    }
    assert all(after[name] == before[name] for name in before if name != "manifest.json")
    assert len(after[f"{variant}.onnx"]) < 0.4 * len(after["fp32.onnx"])


def test_quantizing_again_replaces_the_variant(fashion_bundle: Bundle):
    for method in ("minmax", "mse"):
        quantize_variant(fashion_bundle, "cpu", QuantizeOptions(method))
    opened = Bundle.open(fashion_bundle.path)
    assert opened.manifest.variants["int8.cpu"].evidence["method"] == "mse"
    assert set(opened.manifest.variants) == {"fp32", "int8.cpu"}


def wrong_scales(*args: Any, **options: Any) -> Any:
    integers, scales = quantize_weights(*args, **options)
    return integers, scales * np.float32(1.5)


def wrong_channels(*args: Any, **options: Any) -> Any:
    integers, scales = quantize_weights(*args, **options)
    return integers, scales[::-1].copy()


quantize_weights = insert_qdq.quantize_weights


@pytest.mark.parametrize("fault", [wrong_scales, wrong_channels])
def test_a_broken_quantizer_is_caught_and_nothing_is_stored(
    fashion_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any]
):
    before = contents(fashion_bundle.path.parent)
    monkeypatch.setattr(insert_qdq, "quantize_weights", fault)
    with pytest.raises(CheckFailed, match=r"variant int8\.cpu: parity with the eager model failed over 32 .*SQNR"):
        quantize_variant(fashion_bundle, "cpu", QuantizeOptions())
    assert contents(fashion_bundle.path.parent) == before


@pytest.mark.parametrize(
    ("rules", "method", "message"),
    [
        ("cpu", "entrop", "unknown range method 'entrop'; did you mean entropy"),
        ("arm", "mse", "unknown dialect 'arm'; known: cpu, "),
    ],
)
def test_unknown_words_change_nothing(fashion_bundle: Bundle, rules: str, method: str, message: str):
    before = contents(fashion_bundle.path.parent)
    with pytest.raises(UsageError, match=message):
        quantize_variant(fashion_bundle, rules, QuantizeOptions(method))
    assert contents(fashion_bundle.path.parent) == before


def test_a_model_replaced_meanwhile_is_not_mixed_with_the_old_ones_integers(
    fashion_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    right = quantize._finish

    def meanwhile(*args: Any) -> bytes:
        blob = right(*args)
        with Bundle.open(fashion_bundle.path).edit() as editor:
            editor.write("fp32.onnx", b"another model")
        return blob

    monkeypatch.setattr(quantize, "_finish", meanwhile)
    with pytest.raises(BundleError, match="another process changed it meanwhile"):
        quantize_variant(fashion_bundle, "cpu", QuantizeOptions())
    assert set(Bundle.open(fashion_bundle.path).manifest.variants) == {"fp32"}


def test_a_full_disk_is_one_line_and_the_bundle_stays(
    exported_fashion: Path, full_disk_of: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
):
    size = sum(path.stat().st_size for path in exported_fashion.rglob("*") if path.is_file())
    disk = full_disk_of(size + 150_000)
    before = contents(exported_fashion)
    for name, blob in before.items():
        (disk / "net" / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / "net" / name).write_bytes(blob)
    code = run(["quantize", str(disk / "net"), "--dialect", "cpu"])
    printed = capsys.readouterr()
    assert (code, printed.out) == (4, "")
    assert printed.err.startswith("resnetrt: no room to write")
    assert printed.err.count("\n") == 1
    assert contents(disk) == {f"net/{name}": blob for name, blob in before.items()}
