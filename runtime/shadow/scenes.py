"""Which sampled requests are evidence of their own: of a scene that lasts, or comes back, only one.

A network that is wrong on one frame of a video is wrong on the next, too. Counted one by one, such requests would make
a sound engine's rare mistakes look frequent.
"""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from resnetrt.runtime.session import Array

_GRID = 8
_REMEMBERED = 64
# Alike: after the shift of each channel's brightness, half of the grid's cells differ by less than 0.35 of the
# contrast. Measured on photographs of 64 pixels, each looked at 40 times with noise of 8 levels, a shake of 1 pixel,
# light and contrast up or down by 15 %, and something new on a tenth of each picture: 1.1 of the 40 count, at most 2.
# Views that are only probably alike are remembered too, so that a scene is followed as it changes. Of 600 different
# CIFAR-10 images 550 count, but of Fashion-MNIST, all centred on black, 16.
_AGREEING, _SURELY, _TOLERANCE = 0.5, 0.85, 0.35
_FLAT_UINT8, _FLAT_FLOAT = 1.0, 0.02  # least contrast: one level, of uint8 and of what is normalized to about 1
Cells = npt.NDArray[np.float32]


class Scenes:
    """Admits one request of each scene, by `by_content`, and one in `interval_s` seconds.

    The 64 views seen last are remembered, so a scene is as long as it is among these. Not for use by several threads.
    """

    def __init__(self, interval_s: float, by_content: bool) -> None:
        self._interval_s, self._by_content = interval_s, by_content
        self._views: OrderedDict[int, Cells] = OrderedDict()
        self._next, self._last_s = 0, -np.inf
        self.alike_in_a_row = 0

    def is_new(self, image: Array, at_s: float) -> bool:
        """Whether `image`, with a batch axis of 1, asked for at `at_s`, would be evidence of its own."""
        if at_s - self._last_s < self._interval_s:
            return False
        if self._by_content and self._is_known(image):
            self.alike_in_a_row += 1
            return False
        self.alike_in_a_row = 0
        return True

    def add(self, image: Array, at_s: float) -> None:
        """Count it: what looks like it is not new, nor what comes within the interval."""
        self._last_s = at_s
        if self._by_content:
            self._remember(cells(image))

    def _remember(self, view: Cells) -> None:
        self._views[self._next] = view
        self._next += 1
        if len(self._views) > _REMEMBERED:
            self._views.popitem(last=False)

    def _is_known(self, image: Array) -> bool:
        if not self._views:
            return False
        view = cells(image)
        flat = _FLAT_UINT8 if image.dtype == np.uint8 else _FLAT_FLOAT
        shares = agreement(view, np.stack(list(self._views.values())), flat)
        best = int(shares.argmax())
        if not shares[best] >= _AGREEING:
            return False
        self._views.move_to_end(list(self._views)[best])
        if shares[best] < _SURELY:
            self._remember(view)
        return True


def cells(image: Array) -> Cells:
    """Mean brightness on a grid of at most 8 by 8, `(cells, channels)`, of uint8 NHWC or float NCHW with N of 1."""
    pixels = image[0] if image.dtype == np.uint8 else np.moveaxis(image[0], 0, -1)
    rows, columns = (np.arange(min(_GRID, size)) * size // min(_GRID, size) for size in pixels.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, 0, np.float32), columns, 1, np.float32)
    heights, widths = (np.diff([*at, size]) for at, size in zip((rows, columns), pixels.shape[:2], strict=True))
    means: Cells = (sums / np.outer(heights, widths)[..., None]).astype(np.float32)
    return means.reshape(-1, pixels.shape[-1])


def agreement(picture: Cells, known: Cells, flat: float) -> npt.NDArray[np.float64]:
    """For each of `known` `(n, cells, channels)` the share of cells that are the same in `picture`; 0 if not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(picture - known - np.median(picture - known, axis=1, keepdims=True))
        contrast = np.maximum(known.std(1, keepdims=True), flat)
        shares: npt.NDArray[np.float64] = (difference < _TOLERANCE * contrast).mean((1, 2))
    return shares
