"""The streaming pass against numpy over everything at once, and the faults it names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_models
from small_data import Calibrated, all_values, dataset_of, per_channel, recipe, smooth_frames

from resnetrt.bundle import Bundle, sha256_of
from resnetrt.calibration.graph.structure import watched_values
from resnetrt.calibration.images.data import pixel_hash
from resnetrt.calibration.observe import collect
from resnetrt.calibration.observe.collect import calibrate, calibrate_bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.calibration_record import BINS_PER_SIDE, FILE
from resnetrt.errors import DataError, UsageError
from resnetrt.export.cast.cast import add_cast_variant
from resnetrt.export.engines.compile import compile_variant
from resnetrt.settings import read_settings

Array = np.ndarray[Any, np.dtype[Any]]
FindCalibrated = Callable[[str], Calibrated]


def spoilt(path: Path, name: str, change: Callable[[Array], None], target: Path) -> Path:
    """The model with one initializer changed."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_statistics_equal_numpy_over_all_images(calibrated: FindCalibrated, kind: str):
    network = calibrated(kind)
    values = all_values(network.path, network.images)
    peak = max(np.abs(array).max() for array in values.values())
    assert set(network.record.tensors) >= {"input", "relu"}
    for name, item in network.record.tensors.items():
        channels = per_channel(values[name])
        near = {"rtol": 1e-5, "atol": 1e-6 * peak}  # another batch size, another order of float32 sums
        np.testing.assert_allclose(item.channel_mean, channels.mean(1), **near)
        np.testing.assert_allclose(item.channel_amax, np.abs(channels).max(1), **near)
        np.testing.assert_allclose([item.minimum, item.maximum], [channels.min(), channels.max()], **near)
        assert item.counts.sum() == values[name].size
        assert item.bound / 2 <= item.amax < item.bound
        edges = np.arange(-BINS_PER_SIDE, BINS_PER_SIDE + 1) * (item.bound / BINS_PER_SIDE)
        moved = np.abs(np.cumsum(item.counts) - np.cumsum(np.histogram(channels, edges)[0])).max()
        assert moved <= 1e-3 * values[name].size, name


def test_the_input_is_exact(calibrated: FindCalibrated):
    network = calibrated("pad")
    item = network.record["input"]
    assert (item.minimum, item.maximum) == (network.images.min(), network.images.max())
    np.testing.assert_array_equal(item.channel_amax, np.abs(per_channel(network.images)).max(1))


def test_where_it_comes_from(calibrated: FindCalibrated):
    network = calibrated("pad")
    assert network.record.dataset == "synthetic"
    assert network.record.model_sha256 == sha256_of(network.path)
    assert network.record.image_hashes == tuple(pixel_hash(frame) for frame in network.frames)
    assert len(set(network.record.image_hashes)) == 70


@pytest.mark.parametrize("size", [1, 7, 70])
def test_the_batch_size_does_not_matter(calibrated: FindCalibrated, monkeypatch: pytest.MonkeyPatch, size: int):
    network = calibrated("plain")
    monkeypatch.setattr(collect, "_MAX_BATCH", size)
    again = calibrate(network.path, dataset_of(network.frames, network.preprocessing), network.preprocessing)
    assert again.image_hashes == network.record.image_hashes
    for name, item in network.record.tensors.items():
        other = again[name]
        assert other.bound == item.bound
        assert other.counts.sum() == item.counts.sum()
        np.testing.assert_allclose(other.channel_mean, item.channel_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose([other.minimum, other.maximum], [item.minimum, item.maximum], rtol=1e-5)


def test_the_same_images_give_the_same_bytes(calibrated: FindCalibrated):
    network = calibrated("plain")
    again = calibrate(network.path, dataset_of(network.frames, network.preprocessing), network.preprocessing)
    assert again.to_bytes() == network.record.to_bytes()


def test_the_model_file_is_not_touched(calibrated: FindCalibrated):
    network = calibrated("plain")
    before = network.path.read_bytes()
    calibrate(network.path, dataset_of(network.frames[:2], network.preprocessing), network.preprocessing)
    assert network.path.read_bytes() == before
    assert {path.name for path in network.path.parent.iterdir()} <= {f"{kind}.onnx" for kind in small_models.CONFIGS}


def test_batches_shrink_with_the_activations():
    def value(*shape: object) -> ir.Value:
        return ir.Value(name="v", shape=ir.Shape(shape))

    assert collect._batch_size([value("batch", 3, 8, 8)]) == 16
    assert collect._batch_size([value("batch", 64, 112, 112), *[value("batch", 256, 56, 56)] * 4]) == 4
    assert collect._batch_size([value("batch", 1024, 1024, 1024)]) == 1
    assert collect._batch_size([ir.Value(name="unknown")]) == 16


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("weight", "tensor"),
    [
        ("stem.conv.weight", "stem.conv"),
        ("stages.0.0.conv1.conv.bias", "stages.0.0.conv1.conv"),
        ("stages.1.0.conv2.conv.weight", "stages.1.0.conv2.conv"),
        ("stages.1.0.shortcut.conv.weight", "stages.1.0.shortcut.conv"),
        ("fc.weight", "logits"),
        ("fc.bias", "logits"),
    ],
)
def test_weights_that_are_not_finite_name_the_first_tensor_they_spoil(
    calibrated: FindCalibrated, tmp_path: Path, weight: str, tensor: str, bad: float
):
    def plant(array: Array) -> None:
        array.flat[0] = bad

    path = spoilt(calibrated("projection").path, weight, plant, tmp_path / "bad.onnx")
    data = dataset_of(smooth_frames("projection", 4), recipe("projection"))
    with pytest.raises(DataError, match=rf"calibration: tensor {tensor} has NaN or infinite values; check the weights"):
        calibrate(path, data, recipe("projection"))


def test_a_fault_in_a_late_batch_is_found(calibrated: FindCalibrated, monkeypatch: pytest.MonkeyPatch):
    network, preprocessing = calibrated("plain"), recipe("plain")
    monkeypatch.setattr(collect, "_MAX_BATCH", 8)
    right, seen = type(preprocessing).normalize, []

    def normalize(self: object, frames: Array) -> Array:
        images = right(preprocessing, frames)
        seen.append(len(images))
        if sum(seen) > 32:
            images[-1, 1, 2, 3] = np.nan
        return images

    monkeypatch.setattr(type(preprocessing), "normalize", normalize)
    with pytest.raises(DataError, match="calibration: tensor input has NaN or infinite values"):
        calibrate(network.path, dataset_of(network.frames, preprocessing), preprocessing)
    assert len(seen) <= 5 + 3 * read_settings().threads  # batches that were already running


def test_blank_images(calibrated: FindCalibrated):
    frames = np.full((4, 16, 16, 3), 100, np.uint8)
    grey = recipe("plain")
    grey = type(grey)("RGB", 16, (16, 16), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(DataError, match=r"calibration: tensor input is constant \(-0\.4.*check that the images are"):
        calibrate(calibrated("plain").path, dataset_of(frames, grey), grey)


def test_a_dead_layer(calibrated: FindCalibrated, tmp_path: Path):
    path = spoilt(calibrated("plain").path, "stages.0.0.conv2.conv.bias", lambda a: a.fill(-9), tmp_path / "a.onnx")
    path = spoilt(path, "stages.0.0.conv2.conv.weight", lambda a: a.fill(0), path)
    data = dataset_of(smooth_frames("plain", 4), recipe("plain"))
    with pytest.raises(DataError, match=r"tensor stages\.0\.0\.relu_2 is constant \(0\) over all images"):
        calibrate(path, data, recipe("plain"))


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_watched_are_inputs_of_layers_and_adds_and_what_is_only_moved(small_onnx: Callable[[str], Path], kind: str):
    graph = ir.load(str(small_onnx(kind))).graph
    watched = {value.name for value in watched_values(graph)}
    values = {output.name: output for node in graph for output in node.outputs}
    for node in graph:
        if node.op_type in ("Conv", "Gemm", "Add"):
            inputs = node.inputs if node.op_type == "Add" else node.inputs[:1]
            assert {value.name for value in inputs if value is not None} <= watched
        if node.op_type in ("MaxPool", "Pad", "Slice", "Reshape") and node.outputs[0].name in watched:
            assert node.inputs[0].name in watched  # type: ignore[union-attr]
    assert watched <= values.keys() | {"input"}


def test_a_bundle_is_calibrated_on_a_choice_that_depends_on_the_seed_alone(fashion_bundle: Bundle):
    records = [calibrate_bundle(fashion_bundle, "fashion_calib", 24, seed, overwrite=True) for seed in (1, 1, 2)]
    assert [len(record.image_hashes) for record in records] == [24, 24, 24]
    assert records[0].to_bytes() == records[1].to_bytes()
    assert set(records[0].image_hashes) != set(records[2].image_hashes)
    assert Bundle.open(fashion_bundle.path).file(FILE).read_bytes() == records[2].to_bytes()


def test_a_failing_calibration_leaves_the_bundle(fashion_bundle: Bundle, tmp_path: Path):
    np.savez(tmp_path / "blank.npz", x=np.zeros((5, 28, 28), np.uint8), y=np.zeros(5, np.int64))
    before = {path.name: path.read_bytes() for path in fashion_bundle.path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="tensor input is constant"):
        calibrate_bundle(fashion_bundle, str(tmp_path / "blank.npz"), 5)
    assert {path.name: path.read_bytes() for path in fashion_bundle.path.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.npz", "fashion.bundle"]


def test_variants_of_another_record_go_with_it(fashion_bundle: Bundle):
    """Else they would be judged on images that they were calibrated on, whose hashes the bundle no longer has."""
    quantize_variant(fashion_bundle, "tensorrt", QuantizeOptions())
    cast, _ = add_cast_variant(fashion_bundle, "int8")
    add_cast_variant(fashion_bundle, "fp16")
    names = ("int8.tensorrt", "fp32", cast)
    engines = [compile_variant(fashion_bundle, name, "onnxruntime", min_share=0) for name in names]
    before = Bundle.open(fashion_bundle.path).manifest
    calibrate_bundle(fashion_bundle, "fashion_calib", 256)
    assert Bundle.open(fashion_bundle.path).manifest == before  # the same images, the same record
    lost = f"variants {', '.join(sorted([cast, 'int8.tensorrt']))} and engines {', '.join(sorted(engines[::2]))};"
    named = re.escape(f"drops what was made from it: {lost} add --overwrite")
    for changed in ({"samples": 32}, {"samples": 256, "equalized": False}):  # known at once, and after the pass
        with pytest.raises(UsageError, match=named):
            calibrate_bundle(fashion_bundle, "fashion_calib", **changed)
        assert Bundle.open(fashion_bundle.path).manifest == before
    calibrate_bundle(fashion_bundle, "fashion_calib", 32, overwrite=True)
    after = Bundle.open(fashion_bundle.path).manifest
    assert set(after.variants) == {"fp32", "fp16"}
    assert set(after.engines) == {engines[1]}
    files = {"fp32.onnx", "fp16.onnx", "fold.json", "golden.safetensors", FILE, f"engines/{engines[1]}.onnx"}
    files |= {"golden/fp32.safetensors", "golden/fp16.safetensors", "outlines/fp32.json", "outlines/fp16.json"}
    assert set(after.files) == files | {f"engines/{engines[1]}.json"}
