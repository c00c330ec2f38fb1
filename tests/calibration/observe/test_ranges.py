"""Ranges and integers: what every scale promises, as properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnetrt.calibration.graph.dialects import DIALECTS, dialect
from resnetrt.calibration.observe.histogram import Histogram
from resnetrt.calibration.observe.ranges import (
    METHODS,
    QuantParams,
    _Moments,
    affine_uint8,
    find_range,
    symmetric_int8,
)
from resnetrt.calibration.quantize.quantize import range_params
from resnetrt.calibration.quantize.round_weights import quantize_weights
from resnetrt.calibration_record import BINS_PER_SIDE, CalibrationRecord, TensorStatistics
from resnetrt.errors import CheckFailed, UsageError

finite = st.floats(-1e6, 1e6, width=32).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
samples = arrays(np.float32, st.integers(2, 60), elements=finite).filter(lambda x: x.min() < x.max())
levels = st.sampled_from([127, 254, 255])


def statistics(values: np.ndarray) -> TensorStatistics:
    histogram = Histogram()
    histogram.add(values, float(values.min()), float(values.max()))
    nothing = np.zeros(1)
    extremes = np.array([[values.min(), values.max()]], np.float32)
    low, high = histogram.minimum, histogram.maximum
    return TensorStatistics(low, high, histogram.bound, histogram.counts, nothing, nothing, extremes)


def record_of(values: np.ndarray) -> CalibrationRecord:
    return CalibrationRecord("x", "a", (), {"t": statistics(values)})


def rounded(values: np.ndarray, params: QuantParams) -> np.ndarray:
    low, high = (0, 255) if params.dtype == "uint8" else (-127, 127)
    integers = np.clip(np.rint(values / params.scale) + params.zero_point, low, high)
    return (integers - params.zero_point) * params.scale


@given(samples, levels)
@pytest.mark.parametrize("method", METHODS)
def test_ranges_hold_zero_and_stay_within_what_was_seen(method: str, values: np.ndarray, levels: int):
    low, high = find_range(statistics(values), method, levels)
    assert low <= 0 <= high
    assert low < high
    assert low >= min(values.min(), 0)
    assert high <= max(values.max(), 0)


@given(samples)
def test_minmax_is_exact(values: np.ndarray):
    assert find_range(statistics(values), "minmax", 255) == (min(float(values.min()), 0), max(float(values.max()), 0))


def clip_error(item: TensorStatistics, low: float, high: float, levels: int) -> float:
    """Bin by bin."""
    step = (max(high, 0.0) - min(low, 0.0)) / levels
    centers = item.centers()
    clipped = np.clip(np.rint(centers / step), round(low / step), round(high / step)) * step
    return float(np.dot(item.counts, np.square(centers - clipped)))


@given(samples, levels, st.floats(0.02, 1))
def test_errors_by_levels_are_those_by_bins(values: np.ndarray, levels: int, ratio: float):
    item = statistics(values)
    lows, highs = item.minimum * np.array([1, ratio]), item.maximum * np.array([1, ratio])
    errors = _Moments(item).clip_errors(lows, highs, levels)
    plain = [clip_error(item, low, high, levels) for low, high in zip(lows, highs, strict=True)]
    np.testing.assert_allclose(errors, plain, rtol=1e-6, atol=1e-9 * np.dot(item.counts, np.square(item.centers())))


@given(samples, levels)
def test_mse_is_never_worse_than_minmax_by_its_own_criterion(values: np.ndarray, levels: int):
    item = statistics(values)
    error = {name: clip_error(item, *find_range(item, name, levels), levels) for name in ("mse", "minmax")}
    assert error["mse"] <= error["minmax"] + 1e-9 * np.dot(item.counts, np.square(item.centers()))


def test_mse_of_a_tensor_with_one_outlier_is_better_than_minmax():
    values = np.abs(np.random.default_rng(0).normal(size=200_000)).astype(np.float32)
    values[0] = 30
    item = statistics(values)
    error = {}
    for name in ("minmax", "mse"):
        params = affine_uint8(*find_range(item, name, 255), "t")
        error[name] = float(np.square(values - rounded(values, params)).sum())
    assert error["mse"] < 0.85 * error["minmax"]


def test_mse_finds_ranges_far_below_half_of_the_largest():
    values = np.concatenate([np.linspace(0, 1, 2_000_000), [12.0]]).astype(np.float32)
    assert find_range(statistics(values), "mse", 15)[1] < 3


def test_mse_judges_the_grid_that_the_symmetric_dialect_uses():
    """A grid symmetric about zero is coarser than one over [minimum, maximum] where these differ in magnitude."""
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.exponential(1, 200_000), -0.05 * rng.random(1000)]).astype(np.float32)
    record = record_of(values)
    chosen = range_params(record, "t", DIALECTS["tensorrt"], "mse").scale
    errors = {}
    for ratio in np.linspace(0.2, 1, 41):
        scale = ratio * record["t"].amax / 127
        errors[scale] = float(np.square(values - rounded(values, QuantParams(scale, 0, "int8"))).sum())
    mine = float(np.square(values - rounded(values, QuantParams(chosen, 0, "int8"))).sum())
    assert mine <= 1.02 * min(errors.values())


@given(samples)
def test_percentile_is_within_minmax_and_cuts_at_most_its_share(values: np.ndarray):
    item = statistics(values)
    low, high = find_range(item, "percentile", 255)
    assert item.minimum <= low or low == 0
    assert high <= max(item.maximum, 0)


def test_percentile_by_hand():
    """Of 100,000 values 0.01 % are 10: the cut is at the bin of the rest."""
    values = np.concatenate([np.full(99_990, 1.0), np.full(10, 15.0)]).astype(np.float32)
    width = 16 / BINS_PER_SIDE
    assert find_range(statistics(values), "percentile", 255) == (0, pytest.approx(1.0, abs=width))
    values[-11:] = 15.0  # one more is kept
    assert find_range(statistics(values), "percentile", 255) == (0, pytest.approx(15.0, abs=width))
    assert find_range(statistics(-values), "percentile", 255) == (pytest.approx(-15.0, abs=width), 0)


def test_unknown_method():
    with pytest.raises(UsageError, match="unknown range method 'mes'; did you mean mse"):
        find_range(statistics(np.array([0, 1], np.float32)), "mes", 255)


@given(samples)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_every_scale_is_positive_and_zero_is_exact(rules: str, method: str, values: np.ndarray):
    params = range_params(record_of(values), "t", dialect(rules), method)
    assert np.isfinite(params.scale)
    assert params.scale >= np.finfo(np.float32).tiny
    assert params.scale == np.float32(params.scale)
    assert rounded(np.zeros(1), params)[0] == 0
    low, high = params.limits
    assert low <= 0 <= high
    if rules == "tensorrt":
        assert (params.zero_point, params.dtype) == (0, "int8")
        assert low == -high
    else:
        assert params.dtype == "uint8"
        assert 0 <= params.zero_point <= 255
        assert params.zero_point == 0 or values.min() < 0


@given(samples)
@pytest.mark.parametrize("rules", DIALECTS)
def test_minmax_rounds_every_value_by_at_most_half_a_step(rules: str, values: np.ndarray):
    params = range_params(record_of(values), "t", dialect(rules), "minmax")
    error = np.abs(rounded(values.astype(np.float64), params) - values)
    # the zero point is rounded too, so an end of an affine range may lie half a step outside
    assert error.max() <= params.scale * (0.5 if rules == "tensorrt" else 1.0) * (1 + 1e-5)


@given(st.floats(1e-30, 1e30))
def test_non_negative_tensors_use_the_whole_unsigned_range(high: float):
    params = affine_uint8(0.0, high, "t")
    assert params.zero_point == 0
    assert params.limits == (0, pytest.approx(high, rel=1e-6))
    assert params.scale < 0.51 * symmetric_int8(0.0, high, "t").scale


@pytest.mark.parametrize("make", [symmetric_int8, affine_uint8])
@pytest.mark.parametrize(("low", "high"), [(0, 0), (-1e-42, 1e-42), (0, float("inf")), (0, float("nan")), (0, 1e300)])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_scale_that_is_no_normal_number_is_refused(make: object, low: float, high: float):
    with pytest.raises(CheckFailed, match=r"tensor stem: scale .* is not a positive float32; calibrate again"):
        make(low, high, "stem")  # type: ignore[operator]


weights = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(2)), elements=finite)


@given(weights, st.sampled_from([0, 1]), st.sampled_from([127, 63]))
def test_weights_are_off_by_at_most_half_a_scale(array: np.ndarray, axis: int, qmax: int):
    integers, scales = quantize_weights(array, axis, qmax)
    assert (integers.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (array.shape[axis],))
    assert integers.shape == array.shape
    assert np.abs(integers.astype(int)).max() <= qmax
    assert (np.isfinite(scales) & (scales >= 2.0**-64)).all()
    shape = [1, 1, 1]
    shape[axis] = -1
    spread = scales.astype(np.float64).reshape(shape)
    assert (np.abs(integers * spread - array) <= spread * (0.5 + 1e-5)).all()
    assert (integers[array == 0] == 0).all()


@given(weights)
def test_the_largest_weight_of_a_channel_gets_the_largest_integer(array: np.ndarray):
    integers, scales = quantize_weights(array, 0)
    for row, ints, scale in zip(array, integers, scales, strict=True):
        if row.any():
            assert np.abs(ints.astype(int)).max() == 127
        else:
            assert scale == 1
            assert not ints.any()


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1.5e-36, 1e-20])
def test_weights_that_decayed_to_nothing_do_not_make_a_scale_of_zero(tiny: float):
    with np.errstate(all="raise"):
        integers, scales = quantize_weights(np.array([[tiny, 0.0], [1.0, -0.5]], np.float32), 0)
    assert (scales >= 2.0**-64).all()
    assert abs(float(integers[0, 0]) * float(scales[0]) - float(np.float32(tiny))) <= scales[0] / 2
    np.testing.assert_array_equal(integers[1], [127, -64])


@given(weights, st.data())
def test_no_scale_is_below_the_least(array: np.ndarray, data: st.DataObject):
    least = data.draw(arrays(np.float32, len(array), elements=st.floats(0, 1e6, width=32)))
    integers, scales = quantize_weights(array, 0, least=least)
    free_integers, free = quantize_weights(array, 0)
    empty = ~array.reshape(len(array), -1).any(1) & (least > 0)
    wanted = np.where(empty, np.maximum(least, 2.0**-64), np.maximum(free, least))
    np.testing.assert_array_equal(scales, wanted.astype(np.float32))
    unchanged = (free >= least) & ~empty
    np.testing.assert_array_equal(integers[unchanged], free_integers[unchanged])


@given(arrays(np.float32, st.integers(2, 60), elements=st.integers(-1000, 1000)).filter(lambda x: x.min() < x.max()))
def test_integers_do_not_depend_on_the_unit(values: np.ndarray):
    """Scaling a tensor by a power of two scales its range and nothing else."""
    for method in METHODS:
        low, high = find_range(statistics(values), method, 255)
        twice = find_range(statistics(values * 4), method, 255)
        assert twice == pytest.approx((4 * low, 4 * high))
