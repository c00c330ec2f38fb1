"""A histogram that grows with its data in one streaming pass.

Bins are symmetric about zero and equal in width; the bound is a power of two. A value outside doubles the bound by
merging neighbouring bins, which is exact, so the result does not depend on the order of the batches.
"""

import math

import numpy as np
import numpy.typing as npt

from resnetrt.calibration_record import BINS_PER_SIDE, bin_centers

_FLOAT32_LIMIT = 2.0**128
_CHUNK = 1 << 15  # values whose copies stay in the cache

Counts = npt.NDArray[np.int64]


class Histogram:
    """Counts over `[-bound, bound)` in `2 * BINS_PER_SIDE` bins, with the exact minimum and maximum seen."""

    def __init__(self) -> None:
        self.bound = 0.0
        self.counts: Counts = np.zeros(2 * BINS_PER_SIDE, np.int64)
        self.minimum = math.inf
        self.maximum = -math.inf

    def add(self, values: npt.NDArray[np.float32], minimum: float, maximum: float) -> None:
        """Count `values` (any shape, finite), whose extremes are `minimum` and `maximum`."""
        self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
        self._grow(max(abs(minimum), abs(maximum)))
        if self.bound == 0:
            self.counts[BINS_PER_SIDE] += values.size
            return
        scale = BINS_PER_SIDE / self.bound  # a power of two, so the product is exact
        exact = np.float32(scale) if scale < _FLOAT32_LIMIT else np.float64(scale)
        flat = values.ravel()
        for start in range(0, flat.size, _CHUNK):
            scaled = flat[start : start + _CHUNK] * exact
            if minimum < 0:
                np.floor(scaled, out=scaled)
                index = scaled.astype(np.intp)
                index += BINS_PER_SIDE
                self.counts += np.bincount(index, minlength=2 * BINS_PER_SIDE)
            else:
                self.counts[BINS_PER_SIDE:] += np.bincount(scaled.astype(np.intp), minlength=BINS_PER_SIDE)

    def _grow(self, magnitude: float) -> None:
        if magnitude == 0 or magnitude < self.bound:
            return
        needed = 2.0 ** (math.floor(math.log2(magnitude)) + 1)
        if self.bound == 0:
            self.bound = needed
        while self.bound < needed:
            half = BINS_PER_SIDE // 2
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(merged, (half, half))
            self.bound *= 2

    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of every bin."""
        return bin_centers(self.bound)
