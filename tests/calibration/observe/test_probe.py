"""What leaves the graph of large tensors: exact statistics, and a fair share of the values."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
from small_data import Calibrated, all_values, dataset_of

from resnetrt.calibration.observe import probe
from resnetrt.calibration.observe.collect import calibrate
from resnetrt.calibration.observe.probe import Probe
from resnetrt.calibration.observe.ranges import find_range
from resnetrt.errors import BundleError

FindCalibrated = Callable[[str], Calibrated]


@pytest.mark.parametrize("kind", small_models.CONFIGS)
def test_few_values_leave_but_every_one_counts(calibrated: FindCalibrated, kind: str):
    network = calibrated(kind)
    images = network.images[:5]
    expected = all_values(network.path, images)
    peak = max(np.abs(array).max() for array in expected.values())
    instrumented = Probe(network.path, images=1 << 14)
    large = 0
    for group, seen in zip(instrumented.groups, instrumented.run(images), strict=True):
        for i, name in enumerate(group.names):
            values = expected[name].reshape(*expected[name].shape[:2], -1)
            near = {"rtol": 1e-5, "atol": 1e-6 * peak}
            np.testing.assert_allclose(seen.high[:, i], values.max(2), **near)
            np.testing.assert_allclose(seen.mean[:, i], values.mean(2), **near)
            if "low" in group.outputs or "high" not in group.outputs:
                np.testing.assert_allclose(seen.low[:, i], values.min(2), **near)
            else:
                assert (seen.low[:, i] <= seen.high[:, i] + 1e-6 * peak).all()
                assert values.min() >= 0
            picked = seen.values[:, i]
            gaps = np.abs(picked[..., None] - values[:, :, None, :]).min(3)
            assert gaps.max() <= 1e-5 * peak
            large += "high" in group.outputs
            assert picked[0].size <= max(16, values.shape[1])
    assert large >= 5


@pytest.mark.parametrize(("sizes", "most"), [((112, 112), 8), ((7, 7), 3), ((32, 32), 32), ((13, 1), 5), ((8, 8), 0)])
def test_strides_cover_the_whole_tensor(sizes: tuple[int, int], most: int):
    strides = probe._strides(sizes, most)
    cells = math.prod(size // step for size, step in zip(sizes, strides, strict=True))
    assert all(size % step == 0 for size, step in zip(sizes, strides, strict=True))
    assert cells <= max(most, 1)


@pytest.mark.parametrize(("channels", "strides"), [(64, (4, 4)), (16, (8, 4)), (256, (7, 7)), (3, (32, 32))])
def test_channels_take_different_places(channels: int, strides: tuple[int, int]):
    picker = probe._picker(channels, strides)
    assert (picker.reshape(channels, -1).sum(1) == 1).all()
    share = picker.sum((0, 1)) / channels
    assert (share > 0).sum() >= min(channels, math.prod(strides)) * 0.9
    assert share.max() <= max(2 / channels, 2 / math.prod(strides))


def test_a_share_of_the_values_gives_about_the_same_ranges(calibrated: FindCalibrated, monkeypatch: pytest.MonkeyPatch):
    network = calibrated("bottleneck")
    monkeypatch.setattr(probe, "MOST_VALUES", 1 << 14)
    record = calibrate(network.path, dataset_of(network.frames, network.preprocessing), network.preprocessing)
    fewer = 0
    for name, item in record.tensors.items():
        whole = network.record[name]
        np.testing.assert_allclose([item.amax, item.maximum], [whole.amax, whole.maximum], rtol=1e-5)
        np.testing.assert_allclose(item.channel_mean, whole.channel_mean, rtol=1e-4, atol=1e-6)
        assert item.counts.sum() <= whole.counts.sum()
        fewer += int(item.counts.sum() < whole.counts.sum() / 4)
        for levels in (127, 255):
            np.testing.assert_allclose(
                find_range(item, "mse", levels)[1], find_range(whole, "mse", levels)[1], rtol=0.25
            )
    assert fewer >= 5


def test_counted_values_are_few_for_any_number_of_images(calibrated: FindCalibrated):
    path: Path = calibrated("bottleneck").path
    for images in (1, 100, 5000, 1 << 30):
        for group in Probe(path, images).groups:
            assert group.outputs.keys() >= {"values"}
    every = Probe(path, 1).groups
    assert all(group.outputs.keys() == {"values"} for group in every)


def test_a_file_that_says_other_channels_than_it_has_is_refused(tmp_path: Path):
    """Shape inference counts a last window that begins behind the image; channels-last features show it as channels."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[N, 2, 6, 6] x) => (float[N, M, 2, 1] y) <float[2, 1] w = {1, 2}>
        { pool = MaxPool<kernel_shape = [1, 1], strides = [4, 4], ceil_mode = 1>(x)
          last = Transpose<perm = [0, 2, 3, 1]>(pool) y = MatMul(last, w) }"""
    )
    onnx.save(model, tmp_path / "net.onnx")
    instrumented = Probe(tmp_path / "net.onnx", images=4)
    with pytest.raises(BundleError, match="tensor last has 2 channels where its file says 3; export the model again"):
        instrumented.run(np.ones((4, 2, 6, 6), np.float32))
