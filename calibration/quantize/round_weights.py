"""Weights to symmetric integers per output channel; no data is needed."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from resnetrt.errors import UsageError
from resnetrt.export.variants.qdq import along
from resnetrt.preprocess import Float64Array

WeightMethod = Callable[[npt.NDArray[np.float32], int], Float64Array]

WEIGHT_METHODS: dict[str, WeightMethod] = {}
_LEAST_SCALE = 2.0**-64  # smaller ones (a filter that weight decay killed) add nothing to any sum


def weight_method(name: str) -> Callable[[WeightMethod], WeightMethod]:
    """Register a method: rows of weights `(outputs, n)` and the largest integer to ideal scales `(outputs,)`."""

    def register(function: WeightMethod) -> WeightMethod:
        WEIGHT_METHODS[name] = function
        return function

    return register


def check_weight_method(name: str) -> None:
    """Raise `UsageError` for an unknown method."""
    if name not in WEIGHT_METHODS:
        raise UsageError.unknown("weight method", name, WEIGHT_METHODS)


@weight_method("amax")
def _amax(rows: npt.NDArray[np.float32], qmax: int) -> Float64Array:
    """The largest weight gets the largest integer."""
    return np.asarray(np.abs(rows).max(1).astype(np.float64) / qmax)


@weight_method("mse")
def _mse(rows: npt.NDArray[np.float32], qmax: int) -> Float64Array:
    """The clipping with the least squared error of rounding and clipping, channel by channel; at worst abs-max."""
    units = rows / np.maximum(np.abs(rows).max(1, keepdims=True), np.finfo(np.float32).tiny)
    best, ratios = np.ones(len(rows)), np.linspace(0.3, 1.0, 15)[:, None].repeat(len(rows), 1)
    for width in (0.05, 0.0):
        errors = np.stack([_clip_error(units, ratio / qmax, qmax) for ratio in [*ratios, best]])
        best = np.append(ratios, best[None], axis=0)[errors.argmin(0), np.arange(len(rows))]
        ratios = np.clip(best + width * np.linspace(-1, 1, 11)[:, None], 0.02, 1.0)
    return best * _amax(rows, qmax)


def _clip_error(units: npt.NDArray[np.float32], scales: Float64Array, qmax: int) -> Float64Array:
    """Squared error per row of rounding `units` (magnitude at most 1) to multiples of `scales`."""
    step = scales.astype(np.float32)[:, None]
    integers = units / step
    np.rint(integers, out=integers)
    np.clip(integers, -qmax, qmax, out=integers)
    integers *= step
    integers -= units
    return np.asarray(np.einsum("ij,ij->i", integers, integers, dtype=np.float64))


def quantize_weights(
    weights: npt.NDArray[np.float32],
    axis: int,
    qmax: int = 127,
    least: npt.NDArray[np.float32] | None = None,
    method: str = "amax",
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 per output channel (`axis`): integers in `[-qmax, qmax]` and float32 scales `(outputs,)`.

    No scale is below `least` `(outputs,)`, nor so small that its product with the input's scale underflows. An all-zero
    channel gets `least`, so that its bias, all that it has, keeps its precision; scale 1 where that is zero too.
    Raises `UsageError` for an unknown method.
    """
    check_weight_method(method)
    moved = np.moveaxis(weights, axis, 0)
    ideal = WEIGHT_METHODS[method](moved.reshape(len(moved), -1), qmax)
    floor = np.zeros(len(moved)) if least is None else least.astype(np.float64)
    empty = np.where(floor > 0, floor, 1.0)
    scales = np.maximum(np.where(ideal > 0, np.maximum(ideal, floor), empty), _LEAST_SCALE).astype(np.float32)
    integers = np.clip(np.rint(weights / along(scales, axis, weights.ndim)), -qmax, qmax).astype(np.int8)
    return integers, scales
