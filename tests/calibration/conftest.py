from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from small_data import Calibrated, dataset_of, recipe, smooth_frames

from resnetrt.calibration.observe.collect import calibrate


@pytest.fixture(scope="session")
def calibrated(small_onnx: Callable[[str], Path]) -> Callable[[str], Calibrated]:
    """Each network of `small_models.CONFIGS`, calibrated once on 70 images: one full batch and a rest."""

    @cache
    def make(kind: str) -> Calibrated:
        frames, preprocessing = smooth_frames(kind, 70), recipe(kind)
        record = calibrate(small_onnx(kind), dataset_of(frames, preprocessing), preprocessing)
        return Calibrated(small_onnx(kind), record, frames, preprocessing)

    return make
