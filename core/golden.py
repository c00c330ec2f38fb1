"""Golden images: real inputs stored in the bundle with the eager FP32 logits that every later stage must reproduce.

Each variant's own outputs on these images are stored too, computed when its file is written: an engine must agree with
both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from resnetrt.bundle import Bundle
from resnetrt.errors import BundleError
from resnetrt.preprocess import FloatArray, UInt8Array

FILE = "golden.safetensors"
_OWN = "outputs"


@dataclass(frozen=True)
class Golden:
    """`frames` uint8 `(n, H, W, C)`, resized and cropped but not normalised; `logits` float32 `(n, classes)`.

    `noise` is the largest difference of eager's float32 logits to float64's, 0 where it was not measured. `own` float32
    `(n, classes)` are the outputs of one variant, None if none was asked for or none are stored.
    """

    frames: UInt8Array
    logits: FloatArray
    noise: float = 0.0
    own: FloatArray | None = None

    def to_bytes(self) -> bytes:
        """Serialise as safetensors, which writes the buffer of an array that is not contiguous in the wrong order."""
        arrays = {"frames": self.frames, "logits": self.logits}
        if self.noise:
            arrays["noise"] = np.array([self.noise], np.float32)
        return bytes(save_safetensors({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    @classmethod
    def of(cls, bundle: Bundle, variant: str | None = None) -> "Golden":
        """The golden images of a bundle, with the outputs of `variant` where they are stored.

        Raises `BundleError` if they are damaged.
        """
        arrays = _read(bundle, FILE)
        try:
            noise = float(arrays.get("noise", np.zeros(1))[0])
            own = None if variant is None else _own_outputs(bundle, variant)
            golden = cls(arrays["frames"], arrays["logits"], noise, own)
        except KeyError as error:
            raise BundleError(f"{bundle.path / FILE}: expected tensors frames and logits, found no {error}") from error
        golden._check(str(bundle.path / FILE))
        return golden

    def _check(self, where: str) -> None:
        kinds = (self.frames.dtype.name, self.frames.ndim, self.logits.dtype.name, self.logits.ndim)
        if kinds != ("uint8", 4, "float32", 2) or not 0 < len(self.frames) == len(self.logits):
            raise BundleError(
                f"{where}: expected uint8 (n, H, W, C) and float32 (n, classes), found {self.frames.dtype} "
                f"{self.frames.shape} and {self.logits.dtype} {self.logits.shape}; export the bundle again"
            )


def outputs_file(variant: str) -> str:
    """The name, in a bundle, of the file that holds a variant's own outputs on the golden images."""
    return f"golden/{variant}.safetensors"


def outputs_to_bytes(outputs: FloatArray) -> bytes:
    """The content of `outputs_file` for outputs `(n, classes)`."""
    return bytes(save_safetensors({_OWN: np.ascontiguousarray(outputs, np.float32)}))


def _own_outputs(bundle: Bundle, variant: str) -> FloatArray | None:
    name = outputs_file(variant)
    if name not in bundle.manifest.files:
        return None
    arrays = _read(bundle, name)
    if _OWN not in arrays:
        raise BundleError(f"{bundle.path / name}: expected a tensor {_OWN}, found {', '.join(arrays) or 'none'}")
    return arrays[_OWN]


def _read(bundle: Bundle, name: str) -> dict[str, npt.NDArray[Any]]:
    path = bundle.file(name)
    try:
        return load_safetensors(path.read_bytes())
    except Exception as error:  # safetensors' own error type has no stable public name
        raise BundleError(f"{path}: damaged golden images ({error}); export the bundle again") from error
