"""Clipping ranges from a calibration record, and weights to integers. No data is needed here.

Methods are registered by name; each maps one tensor's statistics to `(low, high)` with `low <= 0 <= high`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resnetrt.calibration.record import TensorStatistics
from resnetrt.errors import CheckFailed, UsageError

FloatArray = npt.NDArray[np.float64]
Method = Callable[[TensorStatistics, int], tuple[float, float]]

METHODS: dict[str, Method] = {}
_LEAST_SCALE = 2.0**-64  # of weights; smaller ones (a filter that weight decay killed) add nothing to any sum


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


def find_range(statistics: TensorStatistics, name: str, levels: int) -> tuple[float, float]:
    """The range of a tensor by method `name` for a grid of `levels` steps over the signed or unsigned range.

    Raises `UsageError` for an unknown method.
    """
    if name not in METHODS:
        raise UsageError.unknown("range method", name, METHODS)
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
    populated = statistics.counts > 0
    values, weights = statistics.centers()[populated], statistics.counts[populated].astype(np.float64)
    low, high = statistics.minimum, statistics.maximum
    best, ratios = 1.0, np.linspace(0.02, 1.0, 99)  # from the whole range down to that of a tensor with rare outliers
    for _ in range(2):
        errors = [_clip_error(values, weights, low * ratio, high * ratio, levels) for ratio in ratios]
        best = float(ratios[int(np.argmin(errors))])
        ratios = np.append(np.linspace(max(best - 0.01, 0.02), min(best + 0.01, 1.0), 17), best)
    return low * best, high * best


def _clip_error(values: FloatArray, weights: FloatArray, low: float, high: float, levels: int) -> float:
    step = (max(high, 0.0) - min(low, 0.0)) / levels
    quantized = np.clip(np.rint(values / step), round(low / step), round(high / step)) * step
    return float(np.dot(weights, np.square(values - quantized)))


def quantize_weights(
    weights: npt.NDArray[np.float32], axis: int, qmax: int = 127, least: npt.NDArray[np.float32] | None = None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 per output channel (`axis`): integers in `[-qmax, qmax]` and float32 scales `(outputs,)`.

    No scale is below `least` `(outputs,)`, nor so small that its product with the input's scale underflows. An all-zero
    channel gets `least`, so that its bias, all that it has, keeps its precision; scale 1 where that is zero too.
    """
    moved = np.moveaxis(weights, axis, 0)
    amax = np.abs(moved.reshape(len(moved), -1)).max(1).astype(np.float64)
    floor = np.zeros(len(moved)) if least is None else least.astype(np.float64)
    empty = np.where(floor > 0, floor, 1.0)
    scales = np.maximum(np.where(amax > 0, np.maximum(amax / qmax, floor), empty), _LEAST_SCALE).astype(np.float32)
    shape = [1] * weights.ndim
    shape[axis] = -1
    integers = np.clip(np.rint(weights / scales.reshape(shape)), -qmax, qmax).astype(np.int8)
    return integers, scales
