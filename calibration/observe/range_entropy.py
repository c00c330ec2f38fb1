"""The entropy method: the clipping whose quantized distribution diverges least from the measured one.

TensorRT's INT8 calibrator, from S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), slides 38 to 40: for each
number of bins `i`, P is the histogram of magnitudes cut to `i` bins with everything beyond added to the last one, Q is
the cut histogram merged to the integers' levels and spread back evenly over the bins that P occupies; the `i` with the
least KL(P, Q) = sum P log(P / Q) gives the threshold. Adapted here to 4096 bins a side instead of 2048 (every second
`i` is tried, so there are as many candidates) and to the levels of the grid at hand: 128 for signed integers as there,
256 for unsigned ones. As in NVIDIA's own later code (pytorch-quantization, `calib/histogram.py`), the bin at zero
counts as much as its neighbour, because zeros are exact whatever the range; ties go to the wider range.

Known weakness, of the definition: a value that very many pixels share (the black background of Fashion-MNIST, and what
the first layers make of it) is a spike that merging smears, so KL prefers to cut a tenth of the values instead. There
the parity check fails and names the layers; `mse` has no such trouble.
"""

import numpy as np

from resnetrt.calibration.images.data import IntArray
from resnetrt.calibration_record import BINS_PER_SIDE, TensorStatistics
from resnetrt.preprocess import Float64Array

_STRIDE = 2


def entropy_range(statistics: TensorStatistics, levels: int) -> tuple[float, float]:
    """`(low, high)` that keeps the information of the magnitudes best; within the extremes that were seen."""
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    bins = magnitude_bins(statistics.counts)
    occupied = int(np.flatnonzero(bins)[-1]) + 1
    merged = round(levels * max(-low, high) / (high - low)) + 1
    candidates = np.arange(min(merged, occupied), occupied, _STRIDE, dtype=np.int64)
    candidates = np.append(candidates, occupied)
    divergences = kl_divergences(bins, candidates, merged)
    best = int(candidates[len(candidates) - 1 - int(np.argmin(divergences[::-1]))])
    limit = best * statistics.bound / BINS_PER_SIDE
    return max(low, -limit), min(high, limit)


def magnitude_bins(counts: IntArray) -> Float64Array:
    """`(BINS_PER_SIDE,)` counts of magnitudes; the bin at zero counts as its neighbour, unless it is all there is."""
    bins = (counts[BINS_PER_SIDE:] + counts[BINS_PER_SIDE - 1 :: -1]).astype(np.float64)
    if bins[1:].any():
        bins[0] = bins[1]
    return bins


def kl_divergences(bins: Float64Array, candidates: IntArray, merged: int) -> Float64Array:
    """KL(P, Q) of cutting `bins` after each of `candidates` bins, Q having `merged` levels; infinite where Q misses P.

    Q is constant on the occupied bins of a level, so only sums over levels are needed: all candidates at once.
    """
    mass = np.append(0.0, np.cumsum(bins))
    occupied = np.append(0, np.cumsum(bins > 0)).astype(np.float64)
    # bin j is in level floor(j * merged / i)
    edges = -(-np.arange(merged + 1, dtype=np.int64) * candidates[:, None] // merged)
    level_mass, level_bins = np.diff(mass[edges], axis=1), np.diff(occupied[edges], axis=1)
    inside = mass[candidates]
    outside = mass[-1] - inside
    last = bins[candidates - 1]
    lone = (last == 0) & (outside > 0)  # P occupies the last bin only because of the values beyond
    level_bins[:, -1] += lone
    p_mass = level_mass.copy()
    p_mass[:, -1] += outside
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(level_mass / level_bins) - np.log(inside)[:, None]
        cross = np.where(p_mass > 0, p_mass * log_q, 0.0).sum(1)
    own = np.append(0.0, np.cumsum(_x_log_x(bins)))[candidates] - _x_log_x(last) + _x_log_x(last + outside)
    total = mass[-1]
    divergences = (own - cross) / total - np.log(total)
    return np.where(np.isfinite(divergences), divergences, np.inf)


def _x_log_x(x: Float64Array) -> Float64Array:
    return x * np.log(np.where(x > 0, x, 1.0))
