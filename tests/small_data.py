"""Images, data sets and calibration records for the networks of `small_models`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import small_models

from resnetrt.calibration.images.data import Dataset
from resnetrt.calibration.images.npz import ArraySource
from resnetrt.calibration_record import CalibrationRecord
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


def all_values(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of the graph for all images at once, by ONNX Runtime without graph optimisations."""
    model = onnx.load(path)
    names = [output for node in model.graph.node for output in node.output]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "logits")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return {"input": images} | dict(zip(outputs, session.run(outputs, {"input": images}), strict=True))


def per_channel(values: np.ndarray) -> np.ndarray:
    """(C, everything else)."""
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)


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
