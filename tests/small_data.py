"""Images, data sets and calibration records for the networks of `small_models`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import small_models

from resnetrt.calibration.data import Dataset
from resnetrt.calibration.npz import ArraySource
from resnetrt.calibration.record import CalibrationRecord
from resnetrt.preprocess import Preprocessing


def recipe(kind: str) -> Preprocessing:
    """The preprocessing of `small_models.build(kind)`."""
    size = small_models.SHAPES[kind][1]
    return Preprocessing("RGB", size, (size, size), (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))


def smooth_frames(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Random pictures of 4x4 pixel blocks, uint8 `(count, H, W, 3)`."""
    size = small_models.SHAPES[kind][1]
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size // 4, size // 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def dataset_of(frames: np.ndarray, preprocessing: Preprocessing, name: str = "synthetic") -> Dataset:
    """Unlabelled frames as a data set."""
    labels = np.zeros(len(frames), np.int64)
    return Dataset(name, labels, (), np.arange(len(frames)), labels, ArraySource(frames, preprocessing, name))


@dataclass(frozen=True)
class Calibrated:
    """A small network's FP32 file, its calibration frames and record."""

    path: Path
    record: CalibrationRecord
    frames: np.ndarray
    preprocessing: Preprocessing

    @property
    def images(self) -> np.ndarray:
        """The frames, normalised."""
        return self.preprocessing.normalize(self.frames)
