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
DEFAULT_COUNT = 32


@dataclass(frozen=True)
class Golden:
    """`frames` uint8 `(n, H, W, C)` as the preprocessing's resize and crop gave them; `logits` float32 `(n, classes)`."""

    frames: UInt8Array
    logits: npt.NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Serialise as safetensors."""
        return bytes(save_safetensors({"frames": self.frames, "logits": self.logits}))

    @classmethod
    def of(cls, bundle: Bundle) -> "Golden":
        """The golden images of a bundle; raises `BundleError` if they are damaged."""
        try:
            arrays = load_safetensors(bundle.file(FILE).read_bytes())
            return cls(arrays["frames"], arrays["logits"])
        except KeyError as error:
            raise BundleError(f"{bundle.path / FILE}: expected tensors frames and logits, found no {error}") from error
