"""Clipping ranges from a calibration record. No data is needed here.

Methods are registered by name; each maps one tensor's statistics to `(low, high)` with `low <= 0 <= high`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from resnetrt.calibration.observe.range_entropy import entropy_range
from resnetrt.calibration_record import BINS_PER_SIDE, TensorStatistics
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.preprocess import Float64Array

Method = Callable[[TensorStatistics, int], tuple[float, float]]

METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a range method."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


@dataclass(frozen=True)
class QuantParams:
    """`real = scale * (quantized - zero_point)`, per tensor; integers in `[qmin, qmax]` of `dtype`."""

    scale: float
    zero_point: int
    dtype: str

    @property
    def limits(self) -> tuple[float, float]:
        """The real values of the smallest and largest integer."""
        qmin, qmax = (0, 255) if self.dtype == "uint8" else (-127, 127)
        return self.scale * (qmin - self.zero_point), self.scale * (qmax - self.zero_point)


def check_method(name: str) -> None:
    """Raise `UsageError` for an unknown range method."""
    if name not in METHODS:
        raise UsageError.unknown("range method", name, METHODS)


def find_range(statistics: TensorStatistics, name: str, levels: int) -> tuple[float, float]:
    """The range of a tensor by method `name` for a grid of `levels` steps over the signed or unsigned range.

    Raises `UsageError` for an unknown method.
    """
    check_method(name)
    low, high = METHODS[name](statistics, levels)
    return min(low, 0.0), max(high, 0.0)


def symmetric_int8(low: float, high: float, tensor: str) -> QuantParams:
    """Signed integers with zero point 0 in `[-127, 127]`."""
    return QuantParams(_checked(max(-low, high) / 127, tensor), 0, "int8")


def affine_uint8(low: float, high: float, tensor: str) -> QuantParams:
    """Unsigned integers; a range that starts at zero gets zero point 0 and the full resolution."""
    scale = _checked((high - low) / 255, tensor)
    return QuantParams(scale, int(np.clip(round(-low / scale), 0, 255)), "uint8")


def _checked(scale: float, tensor: str) -> float:
    """`scale` as float32 holds it; raises `CheckFailed` naming the tensor unless it is a normal positive number."""
    stored = float(np.float32(scale))
    if not (math.isfinite(stored) and stored >= np.finfo(np.float32).tiny):
        raise CheckFailed(f"tensor {tensor}: scale {scale} is not a positive float32; calibrate again with real images")
    return stored


@method("minmax")
def _minmax(statistics: TensorStatistics, _levels: int) -> tuple[float, float]:
    return statistics.minimum, statistics.maximum


@method("percentile")
def _percentile(statistics: TensorStatistics, _levels: int, percent: float = 99.99) -> tuple[float, float]:
    """Cut the outer 0.01 % of magnitudes (Wu et al. 2020, arXiv:2004.09602, section 5.2)."""
    magnitudes = np.abs(statistics.centers())
    order = np.argsort(magnitudes, kind="stable")
    cumulative = np.cumsum(statistics.counts[order])
    index = int(np.searchsorted(cumulative, cumulative[-1] * percent / 100))
    limit = float(magnitudes[order[min(index, len(order) - 1)]])
    return max(statistics.minimum, -limit), min(statistics.maximum, limit)


@method("mse")
def _mse(statistics: TensorStatistics, levels: int) -> tuple[float, float]:
    """The clipping with the least squared error of rounding and clipping over the histogram."""
    low, high = statistics.minimum, statistics.maximum
    moments = _Moments(statistics)
    best, ratios = 1.0, np.linspace(0.02, 1.0, 99)  # from the whole range down to that of a tensor with rare outliers
    for _ in range(2):
        best = float(ratios[int(np.argmin(moments.clip_errors(low * ratios, high * ratios, levels)))])
        ratios = np.append(np.linspace(max(best - 0.01, 0.02), min(best + 0.01, 1.0), 17), best)
    return low * best, high * best


@method("entropy")
def _entropy(statistics: TensorStatistics, levels: int) -> tuple[float, float]:
    """Least Kullback-Leibler divergence, as TensorRT's calibrator; see `range_entropy`."""
    return entropy_range(statistics, levels)


@method("moving_average")
def _moving_average(statistics: TensorStatistics, _levels: int, momentum: float = 0.9) -> tuple[float, float]:
    """Exponential moving average of the batches' extremes (Jacob et al. 2018, arXiv:1712.05877, section 3.1).

    Batch `i` of `n` weighs `momentum ** (n - 1 - i)`, normalised, so that the first batch has no privilege.
    """
    extremes = statistics.batch_extremes
    if len(extremes) == 0:
        raise UsageError("range method moving_average: the calibration record is of an older format; calibrate again")
    weights = momentum ** np.arange(len(extremes) - 1, -1, -1, dtype=np.float64)
    low, high = (weights / weights.sum()) @ extremes.astype(np.float64)
    return max(float(low), statistics.minimum), min(float(high), statistics.maximum)


class _Moments:
    """Sums over all bins below each edge, of the counts and of those times the value, and of all times its square."""

    def __init__(self, statistics: TensorStatistics) -> None:
        values, counts = statistics.centers(), statistics.counts.astype(np.float64)
        self._count, self._sum = (np.append(0.0, np.cumsum(weights)) for weights in (counts, counts * values))
        self._squares = float(np.dot(counts, np.square(values)))
        self._width = statistics.bound / BINS_PER_SIDE

    def clip_errors(self, lows: Float64Array, highs: Float64Array, levels: int) -> Float64Array:
        """Squared error of rounding and clipping to each of the ranges `(r,)`: level by level, not bin by bin.

        With q the level above an edge and q' the one below, all that lies below costs q'^2 - q^2 - 2 x (q' - q) more
        than at q; the sum over all edges counts from the top level downwards.
        """
        steps = (np.maximum(highs, 0.0) - np.minimum(lows, 0.0)) / levels
        first, last = np.rint(lows / steps), np.rint(highs / steps)
        below = first[:, None] + np.arange(int((last - first).max()))
        edges = (below + 0.5) * steps[:, None]
        bins = np.rint(edges / self._width).astype(np.intp) + BINS_PER_SIDE
        gains = self._sum.take(bins, mode="clip") - edges * self._count.take(bins, mode="clip")
        gains[below >= last[:, None]] = 0.0
        top = last * steps
        at_top = self._squares - 2 * top * self._sum[-1] + np.square(top) * self._count[-1]
        errors: Float64Array = at_top + 2 * steps * gains.sum(1)
        return errors
