"""Calibration images that look unlike the golden ones are found, and a fair choice of the same set is not."""

import logging
from pathlib import Path

import numpy as np
import pytest

from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Dataset, open_dataset
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.observe.unlike import unlike_golden
from resnetrt.models.definitions import DEFINITIONS

RECIPE = DEFINITIONS["cifar_resnet20"].preprocessing
FASHION = DEFINITIONS["fashion_resnet20"].preprocessing


def pictures(count: int, seed: int) -> np.ndarray:
    """Blurred colours of different brightness, uint8 `(count, 32, 32, 3)`."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)) * rng.uniform(0.3, 1, (count, 1, 1, 1))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)


def as_dataset(folder: Path, frames: np.ndarray) -> Dataset:
    np.savez(folder / "x.npz", x=frames)
    return open_dataset(str(folder / "x.npz"), RECIPE, labelled=False)


@pytest.mark.parametrize("seed", range(5))
def test_choices_of_one_set_look_alike(tmp_path: Path, seed: int):
    assert unlike_golden(as_dataset(tmp_path, pictures(100, seed)), pictures(16, seed + 50)) == ""
    fashion = open_dataset("fashion_calib", FASHION, labelled=False).subset(40, seed)
    golden = next(open_dataset("fashion_test", FASHION).subset(32, seed).batches(32)).frames
    assert unlike_golden(fashion, golden) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x // 3, "brightness of channel "),
        (lambda x: x // 255, "100% of them are grey, 0% of the golden"),
        (lambda x: x // 8 + 100, "contrast of channel "),
        (lambda x: x.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8), "100% of them are grey, 0% of the golden"),
    ],
)
def test_other_images_are_described(tmp_path: Path, change, words: str):
    assert words in unlike_golden(as_dataset(tmp_path, change(pictures(64, 0))), pictures(32, 1))


def test_calibration_warns(fashion_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    frames = np.concatenate([b.frames for b in open_dataset("fashion_calib", FASHION).subset(24).batches(24)])
    np.savez(tmp_path / "dark.npz", x=frames[..., 0] // 8)
    with caplog.at_level(logging.WARNING, "resnetrt"):
        calibrate_bundle(fashion_bundle, str(tmp_path / "dark.npz"), 24)
        assert "calibration images look unlike the golden ones: brightness 0.0" in caplog.text
        caplog.clear()
        calibrate_bundle(fashion_bundle, "fashion_calib", 24)
    assert caplog.text == ""
