"""The record's file: round trip, equality, damage."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from resnetrt.bundle import Bundle
from resnetrt.calibration.observe.ranges import find_range
from resnetrt.calibration.quantize.quantize import load_record
from resnetrt.calibration_record import BINS_PER_SIDE, FILE, HEADER, CalibrationRecord, TensorStatistics, recorded_amax
from resnetrt.errors import BundleError, UsageError

BINS = 2 * BINS_PER_SIDE


def statistics(seed: int = 0) -> TensorStatistics:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, BINS)
    extremes = rng.normal(size=(3, 2)).astype(np.float32)
    return TensorStatistics(-1.5, 1.75, 2.0, counts, rng.normal(size=4), rng.random(4), extremes)


def new_record() -> CalibrationRecord:
    tensors = {"input": statistics(1), "stages.0.1/relu: ü": statistics(2)}
    return CalibrationRecord("fashion", "a" * 64, ("b" * 64, "c" * 64), tensors, {"conv": np.arange(4.0)})


@contextmanager
def stored(blob: bytes) -> Iterator[Path]:
    """A file `demo/calibration.safetensors` with this content."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "demo" / FILE
        path.parent.mkdir()
        path.write_bytes(blob)
        yield path


def parse(blob: bytes) -> CalibrationRecord:
    with stored(blob) as path:
        return CalibrationRecord.read(path)


def with_header(**changes: object) -> bytes:
    """A record whose header was changed."""
    record = new_record()
    arrays = {f"counts/{name}": item.counts for name, item in record.tensors.items()}
    arrays |= {f"channel_mean/{name}": item.channel_mean for name, item in record.tensors.items()}
    arrays |= {f"channel_amax/{name}": item.channel_amax for name, item in record.tensors.items()}
    header = {
        "format": 1,
        "dataset": "x",
        "model_sha256": "a",
        "image_hashes": [],
        "tensors": {name: [item.minimum, item.maximum, item.bound] for name, item in record.tensors.items()},
    }
    return save(arrays, metadata={"record": json.dumps(header | changes)})


def assert_equal(first: CalibrationRecord, second: CalibrationRecord) -> None:
    assert (first.dataset, first.model_sha256, first.image_hashes) == (
        second.dataset,
        second.model_sha256,
        second.image_hashes,
    )
    assert first.tensors.keys() == second.tensors.keys()
    for name, item in first.tensors.items():
        other = second.tensors[name]
        assert (item.minimum, item.maximum, item.bound) == (other.minimum, other.maximum, other.bound)
        for field in ("counts", "channel_mean", "channel_amax", "batch_extremes"):
            np.testing.assert_array_equal(getattr(item, field), getattr(other, field), strict=True)
    assert first.equalization.keys() == second.equalization.keys()
    for name, factors in first.equalization.items():
        np.testing.assert_array_equal(factors, second.equalization[name], strict=True)


def test_round_trip():
    assert_equal(parse(new_record().to_bytes()), new_record())


def test_round_trip_of_a_measured_record(exported_fashion: Bundle):
    bundle = Bundle.open(exported_fashion)
    blob = bundle.file(FILE).read_bytes()
    assert parse(blob).to_bytes() == blob


def test_equal_records_give_equal_bytes():
    record = new_record()
    swapped = dict(reversed(record.tensors.items()))
    twin = CalibrationRecord(record.dataset, record.model_sha256, record.image_hashes, swapped, record.equalization)
    assert twin.to_bytes() == record.to_bytes()
    assert twin.sha256 == record.sha256
    assert len(record.sha256) == 64


def test_views_are_stored_as_they_look():
    block = np.arange(2.0 * BINS).reshape(BINS, 2)
    item = TensorStatistics(-1.0, 1.0, 1.0, block[:, 0].astype(np.int64), block[:8:2, 1], block[:4, 1])
    record = CalibrationRecord("x", "a", (), {"t": item}, {"c": block[::-1][:3, 0]})
    assert_equal(parse(record.to_bytes()), record)


def test_amax_and_centers():
    item = statistics()
    assert item.amax == 1.75
    assert TensorStatistics(-3, 1, 4, item.counts, item.channel_mean, item.channel_amax).amax == 3
    assert item.centers()[BINS_PER_SIDE] == 2.0 / BINS_PER_SIDE / 2


def test_unknown_tensor():
    assert new_record()["input"].minimum == -1.5
    with pytest.raises(
        UsageError,
        match="the calibration record has no tensor relu_9; run again: resnetrt calibrate BUNDLE --data FOLDER",
    ):
        new_record()["relu_9"]


@pytest.mark.parametrize("blob", [b"", b"\x00" * 8, b"\xff" * 64, b"PK\x03\x04 something else", b"{}"])
def test_bytes_that_are_no_record(blob: bytes):
    with pytest.raises(
        BundleError, match=r"demo/calibration\.safetensors: .*run: resnetrt calibrate BUNDLE --data FOLDER"
    ):
        parse(blob)


def test_safetensors_of_another_kind():
    with pytest.raises(BundleError, match=r"expected a calibration record, found 'record'"):
        parse(save({"x": np.zeros(3)}))
    with pytest.raises(BundleError, match=r"expected a calibration record, found 'record'"):
        parse(save({"x": np.zeros(3)}, metadata={"other": "x"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4}, "calibration record format 4, expected at most 3"),
        ({"tensors": {"gone": [0, 1, 1]}}, "found 'counts/gone'"),
        ({"tensors": {"input": [0]}}, "damaged calibration record|expected a calibration record"),
        ({"tensors": [1]}, "damaged calibration record|expected a calibration record"),
        ({"image_hashes": 3}, "expected a calibration record"),
    ],
)
def test_a_header_that_does_not_fit(changes: dict[str, object], message: str):
    assert parse(with_header()).dataset == "x"
    with pytest.raises(BundleError, match=message):
        parse(with_header(**changes))


def test_a_record_of_the_first_format_is_read_and_only_lacks_extremes_per_batch():
    record = parse(with_header(format=1))
    assert record["input"].minimum == -1.5
    assert find_range(record["input"], "mse", 255)
    with pytest.raises(UsageError, match="moving_average: the calibration record is of an older format; calibrate ag"):
        find_range(record["input"], "moving_average", 255)


def test_a_histogram_of_another_size():
    with stored(new_record().to_bytes()) as path, safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()[HEADER])
    header["tensors"] = {"t": [0.0, 1.0, 1.0]}
    arrays = {"counts/t": np.zeros(7, np.int64), "channel_mean/t": np.zeros(1), "channel_amax/t": np.zeros(1)}
    with pytest.raises(BundleError, match=r"a histogram of \(7,\) bins for t"):
        parse(save(arrays, metadata={"record": json.dumps(header)}))


BLOB = new_record().to_bytes()


@given(st.data())
def test_damage_is_named_or_harmless_and_never_crashes(data: st.DataObject):
    blob = bytearray(BLOB[: data.draw(st.integers(0, len(BLOB)))])
    for _ in range(data.draw(st.integers(0, 4)) if blob else 0):
        blob[data.draw(st.integers(0, min(len(blob), 1500) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(blob))
    except BundleError as error:
        assert "/demo/calibration.safetensors: " in str(error)  # noqa: PT017


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(
        BundleError,
        match=r"gone\.safetensors: expected a calibration record, found .*resnetrt calibrate BUNDLE --data FOLDER$",
    ):
        CalibrationRecord.read(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("blob", [b"garbage", with_header(format=4), with_header(tensors=3), with_header(amax=3)])
def test_the_amax_of_a_record_that_can_not_be_read(fashion_bundle: Bundle, blob: bytes):
    """The header alone is held to what the whole record is held to, its format too."""
    with fashion_bundle.edit() as editor:
        editor.write(FILE, blob)
    with pytest.raises(BundleError, match=r"fashion\.bundle/calibration\.safetensors: .*calibrat"):
        recorded_amax(fashion_bundle)


def test_the_amax_of_a_bundle_without_record(fashion_bundle: Bundle):
    with fashion_bundle.edit() as editor:
        editor.remove(FILE)
    assert (recorded_amax(fashion_bundle), CalibrationRecord.of(fashion_bundle)) == (None, None)


def test_truncated_anywhere():
    for end in range(0, len(BLOB) - 1, 4001):
        with pytest.raises(BundleError, match=r"demo/calibration\.safetensors: "):
            parse(BLOB[:end])


def test_a_bundle_without_record(fashion_bundle: Bundle):
    with fashion_bundle.edit() as editor:
        editor.remove(FILE)
    with pytest.raises(UsageError, match="has no calibration record; make one with: resnetrt calibrate"):
        load_record(fashion_bundle)


def test_the_record_of_another_model(fashion_bundle: Bundle):
    with fashion_bundle.edit() as editor:
        editor.write("fp32.onnx", fashion_bundle.file("fp32.onnx").read_bytes() + b"\x00")
    with pytest.raises(UsageError, match=r"its calibration record is of another fp32\.onnx; calibrate again"):
        load_record(fashion_bundle)


def test_a_damaged_record_in_a_bundle(fashion_bundle: Bundle):
    with fashion_bundle.edit() as editor:
        editor.write(FILE, b"garbage")
    with pytest.raises(
        BundleError, match=r"fashion\.bundle/calibration\.safetensors: .*run: resnetrt calibrate BUNDLE --data FOLDER"
    ):
        load_record(fashion_bundle)
