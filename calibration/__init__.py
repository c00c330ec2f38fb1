"""Calibration and quantization: image data, ranges that are measured once, and Q/DQ for a target."""

from typing import TYPE_CHECKING

from resnetrt.public import lazily

if TYPE_CHECKING:
    from resnetrt.calibration.images.data import Dataset, open_dataset
    from resnetrt.calibration.observe.collect import calibrate_bundle
    from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant

__all__ = [
    "Dataset",
    "QuantizeOptions",
    "calibrate_bundle",
    "open_dataset",
    "quantize_variant",
]
__getattr__ = lazily(
    __name__,
    {
        "Dataset": "images.data",
        "QuantizeOptions": "quantize.quantize",
        "calibrate_bundle": "observe.collect",
        "open_dataset": "images.data",
        "quantize_variant": "quantize.quantize",
    },
)
