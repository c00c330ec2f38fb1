"""Whether calibration images look like the golden ones: ranges measured on other images fit other images."""

import numpy as np

from resnetrt.calibration.images.data import Dataset
from resnetrt.preprocess import UInt8Array

_LOOKED_AT = 32  # calibration images, spread over the set
# Spreads between two sets, on CIFAR-10 and Fashion-MNIST: 32 images of a set against 16 others of it reach 1.1 in 2,000
# draws; those of a single class 1.3 by the median; images half as bright 2.1, four times darker 3.1, one colour 3.3.
_FAR = 1.5
_LEAST_SPREAD = 0.02  # of images of one brightness, in shares of white
_GREY = 3.0  # levels between the channels of an image that has no colour, as JPEG leaves them


def unlike_golden(dataset: Dataset, golden: UInt8Array) -> str:
    """How some of the images differ from the `golden` frames, uint8 `(n, H, W, C)`; empty if they look alike."""
    places = np.unique(np.linspace(0, len(dataset) - 1, _LOOKED_AT).astype(int))
    frames = np.concatenate([batch.frames for batch in dataset.select(places).batches(_LOOKED_AT)])
    ours, theirs = _grey_share(frames), _grey_share(golden)
    if max(ours, theirs) > 0.9 and min(ours, theirs) < 0.5:
        return f"{ours:.0%} of them are grey, {theirs:.0%} of the golden ones"
    for what, function in (("brightness", np.mean), ("contrast", np.std)):
        one, other = (function(images / 255, axis=(1, 2)) for images in (frames, golden))
        spread = np.sqrt((one.var(0) + other.var(0)) / 2) + _LEAST_SPREAD
        apart = np.abs(one.mean(0) - other.mean(0)) / spread
        if apart.max() > _FAR:
            channel = int(apart.argmax())
            name = "" if golden.shape[-1] == 1 else f" of channel {channel}"
            return (
                f"{what}{name} {one[:, channel].mean():.2f} of white, {other[:, channel].mean():.2f} in the golden ones"
            )
    return ""


def _grey_share(frames: UInt8Array) -> float:
    """The share of images without colour; 0 for images of one channel, which have none to miss."""
    if frames.shape[-1] == 1:
        return 0.0
    wide = frames.astype(np.int16)
    return float(((wide.max(-1) - wide.min(-1)).mean((1, 2)) < _GREY).mean())
