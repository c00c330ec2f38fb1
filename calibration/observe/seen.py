"""What one batch of calibration images showed, here or on another machine."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from resnetrt.calibration.images.data import pixel_hash
from resnetrt.calibration.observe.probe import Measured, Probe
from resnetrt.preprocess import Preprocessing, UInt8Array


@dataclass(frozen=True)
class Seen:
    """The hash of each image of a batch, and the statistics of each group of tensors."""

    hashes: tuple[str, ...]
    measured: tuple[Measured, ...]

    def to_bytes(self) -> bytes:
        """As safetensors."""
        digests = np.frombuffer(bytes.fromhex("".join(self.hashes)), np.uint8).reshape(len(self.hashes), -1)
        arrays: dict[str, npt.NDArray[Any]] = {"hashes": digests}
        for index, measured in enumerate(self.measured):
            arrays |= {f"{index}/{name}": np.ascontiguousarray(array) for name, array in vars(measured).items()}
        return bytes(save(arrays))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Seen":
        """The inverse of `to_bytes`."""
        arrays = load(blob)
        hashes = tuple(digest.tobytes().hex() for digest in arrays.pop("hashes"))
        groups: dict[int, dict[str, npt.NDArray[Any]]] = {}
        for key, array in arrays.items():
            index, _, name = key.partition("/")
            groups.setdefault(int(index), {})[name] = array
        return cls(hashes, tuple(Measured(**groups[index]) for index in sorted(groups)))


def see(probe: Probe, frames: UInt8Array, preprocessing: Preprocessing) -> Seen:
    """Run one batch. Raises `DataError` naming the first tensor that is not finite."""
    measured = probe.run(preprocessing.normalize(frames))
    return Seen(tuple(map(pixel_hash, frames)), tuple(measured))
