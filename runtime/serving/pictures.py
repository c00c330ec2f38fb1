"""Encoded images as input: JPEG or PNG bytes to the engine's input, preprocessed as the bundle says."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from resnetrt.errors import DataError
from resnetrt.preprocess import Preprocessing, UInt8Array
from resnetrt.runtime.serving.faults import invalid

_FORMATS = ("JPEG", "PNG")


def read_frames(encoded: Sequence[bytes], preprocessing: Preprocessing, most_pixels: int) -> UInt8Array:
    """Decode, resize and crop images to uint8 `(N, H, W, C)`.

    Raises `RequestFault` for what is no JPEG or PNG or has more than `most_pixels`, `DataError` for a damaged one.
    """
    for index, blob in enumerate(encoded):
        _check_header(blob, most_pixels, f"image {index}")
    return np.stack([_frame(blob, preprocessing, index) for index, blob in enumerate(encoded)])


def _frame(blob: bytes, preprocessing: Preprocessing, index: int) -> UInt8Array:
    try:
        return preprocessing.frame_from_file(blob)
    except DataError as error:
        raise DataError(f"image {index}: {error}") from error


def _check_header(blob: bytes, most_pixels: int, what: str) -> None:
    """Look at format and size before anything is unpacked: a few bytes can stand for gigabytes."""
    try:
        with Image.open(io.BytesIO(blob), formats=_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise invalid(f"{what}: expected at most {most_pixels} pixels, found several times as many") from error
    except Exception as error:  # Pillow's readers raise anything on damaged data
        raise invalid(f"{what}: expected JPEG or PNG bytes, found {len(blob)} bytes that are neither") from error
    if width * height > most_pixels:
        raise invalid(f"{what}: expected at most {most_pixels} pixels, found {width}x{height}")
