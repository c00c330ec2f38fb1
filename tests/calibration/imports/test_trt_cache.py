"""TensorRT's calibration cache: known bytes, round trips, damage, and a variant made from one."""

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.imports.import_qdq import quantize_from_cache
from resnetrt.calibration.imports.trt_cache import cache_text, header, read_cache, record_from_cache, write_cache
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, load_record, quantize_variant, range_params
from resnetrt.cli import run
from resnetrt.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("version", "method", "expected"),
    [
        ("8.6.1", "entropy", "TRT-8601-EntropyCalibration2"),
        ("8.5.1.7", "mse", "TRT-8501-EntropyCalibration2"),
        ("10.3.0", "minmax", "TRT-100300-MinMaxCalibration"),
        ("10.16", "entropy", "TRT-101600-EntropyCalibration2"),
    ],
)
def test_header(version: str, method: str, expected: str):
    assert header(method, version) == expected


@pytest.mark.parametrize("version", ["", "10", "ten.three", "10.3.0-rc1"])
def test_no_version(version: str):
    with pytest.raises(UsageError, match=r"TensorRT version: expected three numbers such as 10\.3\.0, found"):
        header("entropy", version)


def test_a_file_as_tensorrt_writes_it(tmp_path: Path):
    path = tmp_path / "calib.cache"
    path.write_text(
        "TRT-8601-EntropyCalibration2\ndata: 3c010204\n(Unnamed Layer* 2) [Shuffle]_output: 40000000\nz: 1f\n\n"
    )
    scales = read_cache(path)
    assert scales["data"] == pytest.approx(1 / 127, rel=1e-7)
    assert scales["(Unnamed Layer* 2) [Shuffle]_output"] == 2.0
    assert scales["z"] == struct.unpack(">f", bytes.fromhex("0000001f"))[0]


@pytest.fixture
def plain_bundle(fashion_bundle: Bundle) -> Bundle:
    """With a record of the network as it is, not equalized."""
    calibrate_bundle(fashion_bundle, "fashion_calib", 64, equalized=False)
    return fashion_bundle


def test_round_trip(plain_bundle: Bundle, tmp_path: Path):
    record = load_record(plain_bundle)
    write_cache(tmp_path / "c.cache", record, "mse", "8.6.1")
    assert (tmp_path / "c.cache").read_text() == cache_text(record, "mse", "8.6.1")
    scales = read_cache(tmp_path / "c.cache")
    assert scales == {name: range_params(record, name, DIALECTS["tensorrt"], "mse").scale for name in record.tensors}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a first line such as TRT-100300-EntropyCalibration2, found 'an empty file'"),
        ("hello\n", "expected a first line such as .*, found 'hello'"),
        ("TRT-8601-EntropyCalibration2\nx 3c\n", "line 2: expected `name: 8 hex digits`, found 'x 3c'"),
        ("TRT-8601-EntropyCalibration2\nx: 3c0102040\n", "line 2: expected `name: 8 hex digits`"),
        ("TRT-8601-EntropyCalibration2\nx: 7fc00000\n", "line 2: scale of x is nan; expected a positive number"),
        ("TRT-8601-EntropyCalibration2\na: 3c010204\nx: 00000000\n", r"line 3: scale of x is 0\.0"),
        ("TRT-8601-EntropyCalibration2\nx: bc010204\n", "line 2: scale of x is -0"),
    ],
)
def test_damage(tmp_path: Path, text: str, message: str):
    (tmp_path / "c.cache").write_text(text)
    with pytest.raises(DataError, match=rf"c\.cache: {message}"):
        read_cache(tmp_path / "c.cache")


def test_binary_or_nothing(tmp_path: Path):
    (tmp_path / "c.cache").write_bytes(b"\xff\xfe\x00")
    for name in ("c.cache", "gone.cache"):
        with pytest.raises(DataError, match="expected a TensorRT calibration cache, found"):
            read_cache(tmp_path / name)


def scales_of(bundle: Bundle, variant: str) -> dict[str, np.ndarray]:
    tensors = onnx.load(bundle.variant_file(variant)).graph.initializer
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors if t.name.endswith(".scale")}


def test_a_variant_from_a_cache_is_the_one_from_the_record(plain_bundle: Bundle, tmp_path: Path):
    write_cache(tmp_path / "c.cache", load_record(plain_bundle), "minmax")
    variant, parity = quantize_from_cache(plain_bundle, tmp_path / "c.cache", "tensorrt", QuantizeOptions())
    assert variant == "int8.tensorrt"
    assert parity.sqnr_db > 25
    opened = Bundle.open(plain_bundle.path)
    assert opened.manifest.variants[variant].evidence["trt_cache"] == "c.cache"
    cached = scales_of(opened, variant)
    quantize_variant(opened, "tensorrt", QuantizeOptions("minmax", bias_correction=False))
    own = scales_of(opened, variant)
    assert cached.keys() == own.keys()
    for name, scale in own.items():
        np.testing.assert_allclose(cached[name], scale, rtol=2e-7)


def test_the_cpu_dialect_gets_unsigned_integers_behind_a_relu(plain_bundle: Bundle, tmp_path: Path):
    write_cache(tmp_path / "c.cache", load_record(plain_bundle), "mse")
    record = record_from_cache(plain_bundle.variant_file("fp32"), tmp_path / "c.cache")
    assert {name for name, item in record.tensors.items() if item.minimum == 0} >= {"relu", "view", "stages.0.0.relu_1"}
    assert record["stages.1.0.shortcut.conv"].minimum < 0
    _, parity = quantize_from_cache(plain_bundle, tmp_path / "c.cache", "cpu", QuantizeOptions())
    assert parity.sqnr_db > 28


def test_the_cache_of_another_network(fashion_bundle: Bundle, tmp_path: Path):
    (tmp_path / "c.cache").write_text("TRT-8601-EntropyCalibration2\ninput: 3c010204\n")
    with pytest.raises(
        UsageError, match=r"no scale for \d+ of \d+ tensors, the first .*; the cache is of another netw"
    ):
        quantize_from_cache(fashion_bundle, tmp_path / "c.cache", "tensorrt", QuantizeOptions())


def test_calibrate_writes_one(fashion_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "c.cache"
    command = ["calibrate", str(fashion_bundle.path), "--data", "fashion_calib", "--samples", "16"]
    assert run([*command, "--write-trt-cache", str(path), "--trt-version", "8.6.1"]) == 0
    assert path.read_text().startswith("TRT-8601-EntropyCalibration2\ninput: ")
    assert run([*command, "--write-trt-cache", str(path), "--trt-method", "klm"]) == 2
    assert "unknown range method 'klm'" in capsys.readouterr().err
