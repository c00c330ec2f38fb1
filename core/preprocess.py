"""The one preprocessing of every stage: image file to uint8 NHWC, uint8 NHWC to normalised float32 NCHW.

Equal bit for bit to torchvision's Resize, CenterCrop, ToTensor and Normalize on PIL images, without torchvision.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from resnetrt.errors import DataError, UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATION, _SCALE = "bilinear-antialias", 255  # the only ones that exist
_DETOURS = {"La": "LA", "LAB": "RGB"}  # modes that Pillow converts to L and RGB only on the way through another

_LONGEST_SIDE = 32_768  # a strip of 1 x 10,000 pixels would otherwise grow to gigabytes

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize` pixels (bilinear, antialiased), centre crop to `size` `(H, W)`, `(x/255 - mean)/std`.

    `mode` is `RGB` or `L` (one grey channel). Pixels are in `[0, 255]`; `mean` and `std` are of `x/255`, per channel.
    """

    mode: str
    resize: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = {"RGB": 3, "L": 1}.get(self.mode)
        if channels is None:
            raise UsageError(f"preprocessing mode: expected RGB or L, found {self.mode!r}")
        if len(self.mean) != channels or len(self.std) != channels:
            raise UsageError(
                f"preprocessing: mode {self.mode} has {channels} channels, found "
                f"{len(self.mean)} means and {len(self.std)} standard deviations"
            )
        if not all(0 < value < math.inf for value in self.std):
            raise UsageError(f"preprocessing std: expected positive numbers, found {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise UsageError(f"preprocessing mean: expected finite numbers, found {self.mean}")
        if min(self.size) < 1 or self.resize < max(self.size):
            raise UsageError(
                f"preprocessing: expected resize >= size >= 1, found resize {self.resize}, size {self.size}"
            )

    @property
    def channels(self) -> int:
        """Channels of a preprocessed image."""
        return len(self.mean)

    def frame(self, image: Image.Image) -> UInt8Array:
        """Convert, resize and crop one image to uint8 `(H, W, C)`; the caller owns the result."""
        image = _resize_shorter_side(convert_mode(image, self.mode), self.resize)
        height, width = self.size
        left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
        pixels = np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)
        return pixels.reshape(height, width, self.channels)

    def frame_from_file(self, source: Path | bytes) -> UInt8Array:
        """Decode an encoded image (path or bytes) to uint8 `(H, W, C)`. Raises `DataError` if it is not one."""
        return self.frame(decode(source))

    def frame_from_array(self, pixels: UInt8Array) -> UInt8Array:
        """Decoded pixels, uint8 `(H, W, C)` or `(H, W)`, as a frame; those of the model's size are kept as they are.

        Raises `DataError` for an array that is no picture.
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not _is_picture(pixels.shape):
            description = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DataError(f"pixels: expected uint8 (H, W), or (H, W, C) with 1, 3 or 4 channels, found {description}")
        if pixels.shape == (*self.size, self.channels):
            return pixels
        return self.frame(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))

    def normalize(self, frames: UInt8Array) -> FloatArray:
        """Map uint8 `(N, H, W, C)` to a new contiguous float32 `(N, C, H, W)`."""
        x = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).astype(np.float32)
        x /= np.float32(255)
        x -= np.asarray(self.mean, np.float32)[:, None, None]
        x /= np.asarray(self.std, np.float32)[:, None, None]
        return x

    def to_json(self) -> dict[str, Any]:
        """The manifest's record of this preprocessing."""
        return {
            "mode": self.mode,
            "resize_shorter_side": self.resize,
            "interpolation": _INTERPOLATION,
            "crop": list(self.size),
            "scale": _SCALE,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`; raises `KeyError`, `TypeError` or `UsageError` for a malformed record."""
        for key, known in (("interpolation", _INTERPOLATION), ("scale", _SCALE)):
            if record[key] != known:
                raise UsageError(f"preprocessing {key}: expected {known}, found {record[key]!r}; upgrade resnetrt")
        height, width = record["crop"]
        mean, std = tuple(map(float, record["mean"])), tuple(map(float, record["std"]))
        return cls(record["mode"], int(record["resize_shorter_side"]), (int(height), int(width)), mean, std)


def decode(source: Path | bytes) -> Image.Image:
    """Decode an image file or encoded bytes, turned as its EXIF orientation says.

    Raises `DataError` naming the file when it is missing, truncated or no image.
    """
    where = source if isinstance(source, Path) else f"{len(source)} bytes"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise DataError(f"image {where}: no such file") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged data, RuntimeError and TypeError too
        raise DataError(f"image {where}: expected a readable image, found: {error}; repair or remove it") from error


def convert_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `RGB` or `L`. 16-bit greys keep their upper byte; Pillow alone would clip them to white."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in _DETOURS:
        image = image.convert(_DETOURS[image.mode])
    return image if image.mode == mode else image.convert(mode)


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3) and 0 not in shape and (len(shape) == 2 or shape[2] in (1, 3, 4))


def _resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if min(width, height) == size:
        return image
    if width <= height:
        target = (size, int(size * height / width))
    else:
        target = (int(size * width / height), size)
    if max(target) > _LONGEST_SIDE:
        raise DataError(
            f"image of {width}x{height} pixels: expected sides within a factor of {_LONGEST_SIDE // size}, so that its "
            f"shorter side can become {size}; remove it"
        )
    return image.resize(target, Image.Resampling.BILINEAR)
