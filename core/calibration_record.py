"""The calibration record: everything that ranges are derived from, measured once, without the images themselves."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save as save_safetensors

from resnetrt.bundle import CALIBRATE, Bundle
from resnetrt.errors import BundleError, UsageError
from resnetrt.fields import Fields

FILE = "calibration.safetensors"
IMAGES_FILE = "calibration.images.json"  # in place of the record, in a bundle for a device
HEADER = "record"  # the metadata that safetensors keeps for a record, as JSON
BINS_PER_SIDE = 4096
_FORMAT = 3
_FACTORS = "equalization/"
_READABLE = (1, 2, 3)  # format 1 had no extremes per batch, 2 no equalization

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TensorStatistics:
    """One tensor over all calibration images.

    Exact extremes, histogram `(2 * BINS_PER_SIDE,)` over `[-bound, bound)`; per channel `(C,)` mean, largest magnitude.
    The minimum of what a ReLU made is only known not to be negative; no range depends on it.
    `batch_extremes` float32 `(batches, 2)`: minimum and maximum of each batch in turn; empty in records of format 1.
    """

    minimum: float
    maximum: float
    bound: float
    counts: npt.NDArray[np.int64]
    channel_mean: npt.NDArray[np.float64]
    channel_amax: npt.NDArray[np.float64]
    batch_extremes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return max(abs(self.minimum), abs(self.maximum))

    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of every bin."""
        return bin_centers(self.bound)


@dataclass(frozen=True)
class CalibrationRecord:
    """Statistics by tensor name, and where they come from.

    `image_hashes` are SHA-256 of the decoded pixels of every image used; `model_sha256` is the FP32 ONNX file's.
    `equalization` holds the factors `(C,)` by which tensors were divided (see `equalize`) before all of this was
    measured; it is empty if they were not.
    """

    dataset: str
    model_sha256: str
    image_hashes: tuple[str, ...]
    tensors: dict[str, TensorStatistics]
    equalization: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> TensorStatistics:
        statistics = self.tensors.get(name)
        if statistics is None:
            raise UsageError(f"the calibration record has no tensor {name}; run again: {CALIBRATE}")
        return statistics

    def amax_in_model(self) -> dict[str, float]:
        """The largest magnitude of each tensor in the FP32 file, where it is not divided by its factors."""
        one = np.ones(1)
        return {
            name: float((item.channel_amax * self.equalization.get(name, one)).max())
            for name, item in self.tensors.items()
        }

    @property
    def sha256(self) -> str:
        """Hash of the serialised record."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise as safetensors; equal records give equal bytes."""
        arrays: Arrays = {}
        scalars: dict[str, list[float]] = {}
        for name, item in sorted(self.tensors.items()):
            scalars[name] = [item.minimum, item.maximum, item.bound]
            arrays[f"counts/{name}"] = item.counts
            arrays[f"channel_mean/{name}"] = item.channel_mean
            arrays[f"channel_amax/{name}"] = item.channel_amax
            arrays[f"batch_extremes/{name}"] = item.batch_extremes
        for name, factors in sorted(self.equalization.items()):
            arrays[f"{_FACTORS}{name}"] = factors
        header = {
            "format": _FORMAT,
            "dataset": self.dataset,
            "model_sha256": self.model_sha256,
            "image_hashes": list(self.image_hashes),
            "tensors": scalars,
            "amax": self.amax_in_model(),
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # safetensors writes raw buffers
        return bytes(save_safetensors(arrays, metadata={HEADER: json.dumps(header, sort_keys=True, allow_nan=False)}))

    @classmethod
    def read(cls, path: Path) -> "CalibrationRecord":
        """The record whose `to_bytes` are at `path`; raises `BundleError` naming the file for anything else."""
        with _opened(path) as (header, file):
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the file is no mapping
            tensors = {name: _statistics(name, values, arrays) for name, values in header["tensors"].items()}
            factors = {key.removeprefix(_FACTORS): value for key, value in arrays.items() if key.startswith(_FACTORS)}
            images = tuple(header["image_hashes"])
            return cls(header["dataset"], header["model_sha256"], images, tensors, factors)

    @classmethod
    def of(cls, bundle: Bundle) -> "CalibrationRecord | None":
        """The record of a bundle, or None if it has none; see `require_same_model`."""
        return cls.read(bundle.file(FILE)) if FILE in bundle.manifest.files else None


def calibration_hashes(bundle: Bundle) -> tuple[str, ...] | None:
    """Hashes of the images that calibration used; None if the bundle doesn't say."""
    record = CalibrationRecord.of(bundle)
    if record is not None:
        return record.image_hashes
    if IMAGES_FILE not in bundle.manifest.files:
        return None
    where = f"bundle {bundle.path}: {IMAGES_FILE}"
    return Fields(bundle.read_json(IMAGES_FILE), where, "package the bundle again").items("image_hashes", str)


def recorded_amax(bundle: Bundle) -> dict[str, float] | None:
    """Largest magnitude of each tensor of the FP32 model, from the record's header; None without a record.

    Raises `UsageError` for a record of another model, `BundleError` for a damaged one.
    """
    if FILE not in bundle.manifest.files:
        return None
    with _opened(bundle.file(FILE)) as (header, _):
        amax = {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in header["tensors"].items()}
        amax |= {name: float(value) for name, value in header.get("amax", {}).items()}  # where those are equalized
        model_sha256 = header["model_sha256"]
    require_same_model(bundle, model_sha256)
    return amax


def require_same_model(bundle: Bundle, model_sha256: str) -> None:
    """Raise `UsageError` if the FP32 file of a bundle is not the one that its calibration record is of."""
    if model_sha256 != bundle.manifest.files[bundle.variant("fp32").file].sha256:
        raise UsageError(f"bundle {bundle.path}: its calibration record is of another fp32.onnx; calibrate again")


def bin_centers(bound: float) -> npt.NDArray[np.float64]:
    """Middles of the `2 * BINS_PER_SIDE` bins over `[-bound, bound)`."""
    width = bound / BINS_PER_SIDE
    return (np.arange(2 * BINS_PER_SIDE, dtype=np.float64) - BINS_PER_SIDE + 0.5) * width


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """The header of the record at `path`, and the file with its arrays; what does not fit is a `BundleError`."""
    try:
        with safe_open(path, "numpy") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[HEADER])
            if header["format"] not in _READABLE:
                raise BundleError(f"{path}: calibration record format {header['format']}, expected at most {_FORMAT}")
            yield header, file
    except BundleError:
        raise
    except (KeyError, ValueError, TypeError, OSError) as error:
        text = f"{path}: expected a calibration record, found {error}; run: {CALIBRATE}"
        raise BundleError(text) from error
    except Exception as error:  # safetensors' own error, and what a damaged header leads to
        raise BundleError(f"{path}: damaged calibration record ({error}); run: {CALIBRATE}") from error


def _statistics(name: str, values: list[float], arrays: Arrays) -> TensorStatistics:
    counts = arrays[f"counts/{name}"]
    if counts.shape != (2 * BINS_PER_SIDE,):
        raise ValueError(f"a histogram of {counts.shape} bins for {name}")
    mean, amax = arrays[f"channel_mean/{name}"], arrays[f"channel_amax/{name}"]
    extremes = arrays.get(f"batch_extremes/{name}", np.zeros((0, 2), np.float32))
    if extremes.ndim != 2 or extremes.shape[1] != 2:
        raise ValueError(f"extremes per batch of shape {extremes.shape} for {name}")
    return TensorStatistics(values[0], values[1], values[2], counts, mean, amax, extremes)
