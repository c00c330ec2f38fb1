"""Golden images: real inputs stored in the bundle with the eager FP32 logits that every later stage must reproduce."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from resnetrt.bundle import Bundle
from resnetrt.errors import BundleError
from resnetrt.preprocess import UInt8Array

FILE = "golden.safetensors"


@dataclass(frozen=True)
class Golden:
    """`frames` uint8 `(n, H, W, C)`, resized and cropped but not normalised; `logits` float32 `(n, classes)`.

    `noise` is the largest difference of eager's float32 logits to float64's, 0 where it was not measured.
    """

    frames: UInt8Array
    logits: npt.NDArray[np.float32]
    noise: float = 0.0

    def to_bytes(self) -> bytes:
        """Serialise as safetensors, which writes the buffer of an array that is not contiguous in the wrong order."""
        arrays = {"frames": self.frames, "logits": self.logits}
        if self.noise:
            arrays["noise"] = np.array([self.noise], np.float32)
        return bytes(save_safetensors({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    @classmethod
    def of(cls, bundle: Bundle) -> "Golden":
        """The golden images of a bundle; raises `BundleError` if they are damaged."""
        path = bundle.file(FILE)
        try:
            arrays = load_safetensors(path.read_bytes())
            found = cls(arrays["frames"], arrays["logits"], float(arrays.get("noise", np.zeros(1))[0]))
        except KeyError as error:
            raise BundleError(f"{path}: expected tensors frames and logits, found no {error}") from error
        except Exception as error:  # safetensors' own error type has no stable public name
            raise BundleError(f"{path}: damaged golden images ({error}); export the bundle again") from error
        found._check(str(path))
        return found

    def _check(self, where: str) -> None:
        kinds = (self.frames.dtype.name, self.frames.ndim, self.logits.dtype.name, self.logits.ndim)
        if kinds != ("uint8", 4, "float32", 2) or not 0 < len(self.frames) == len(self.logits):
            raise BundleError(
                f"{where}: expected uint8 (n, H, W, C) and float32 (n, classes), found {self.frames.dtype} "
                f"{self.frames.shape} and {self.logits.dtype} {self.logits.shape}; export the bundle again"
            )
