"""The entropy and moving-average methods against brute force, and weights by MSE."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy as kl_divergence
from small_data import Calibrated

from resnetrt.calibration.observe.histogram import Histogram
from resnetrt.calibration.observe.range_entropy import entropy_range, kl_divergences, magnitude_bins
from resnetrt.calibration.observe.ranges import find_range
from resnetrt.calibration.quantize.round_weights import WEIGHT_METHODS, quantize_weights
from resnetrt.calibration_record import BINS_PER_SIDE, TensorStatistics
from resnetrt.errors import UsageError


def statistics(values: np.ndarray, *batches: tuple[float, float]) -> TensorStatistics:
    histogram = Histogram()
    low, high = float(values.min()), float(values.max())
    histogram.add(values.astype(np.float32), low, high)
    extremes = np.array(batches or [(low, high)], np.float32)
    return TensorStatistics(low, high, histogram.bound, histogram.counts, np.zeros(1), np.zeros(1), extremes)


def divergence_by_the_book(bins: np.ndarray, cut: int, levels: int) -> float:
    """The loop of the GTC 2017 slides, bin by bin."""
    p = bins[:cut].astype(float).copy()
    p[-1] += bins[cut:].sum()
    q = np.zeros(cut)
    for level in range(levels):
        inside = [j for j in range(cut) if j * levels // cut == level]
        occupied = [j for j in inside if p[j] > 0]
        for j in occupied:
            q[j] = bins[inside].sum() / len(occupied)
    if q.sum() == 0:
        return np.inf
    return float(kl_divergence(p, q))


small_bins = arrays(np.float64, st.integers(6, 40), elements=st.integers(0, 9)).filter(lambda x: x[-1] > 0)


@given(small_bins, st.integers(2, 6))
def test_divergences_equal_the_slides_loop(bins: np.ndarray, levels: int):
    cuts = np.arange(levels, len(bins) + 1)
    divergences = kl_divergences(bins, cuts, levels)
    expected = [divergence_by_the_book(bins, int(cut), levels) for cut in cuts]
    np.testing.assert_allclose(divergences, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("sign", "levels", "merged"), [(False, 127, 128), (False, 255, 256), (True, 254, 128)])
def test_the_threshold_is_that_of_the_slides(sign: bool, levels: int, merged: int):
    """All of the candidates would take minutes bin by bin; those around the choice, and a few others, do not."""
    values = np.random.default_rng(2).laplace(size=30_000)
    values = values if sign else np.abs(values)
    item = statistics(values)
    if sign:
        item = TensorStatistics(-item.amax, item.amax, item.bound, item.counts, item.channel_mean, item.channel_amax)
    low, high = entropy_range(item, levels)
    assert low == (-high if sign else 0)
    bins = magnitude_bins(item.counts)
    chosen = round(high / item.bound * BINS_PER_SIDE)
    best = divergence_by_the_book(bins, chosen, merged)
    for cut in (merged, chosen - 64, chosen - 2, chosen + 2, chosen + 64, int(np.flatnonzero(bins)[-1]) + 1):
        assert best <= divergence_by_the_book(bins, cut, merged) + 1e-9


def test_entropy_cuts_a_lone_outlier_and_keeps_a_uniform_tensor():
    rng = np.random.default_rng(0)
    normal = np.append(np.abs(rng.normal(size=500_000)), 40.0)
    assert 2.5 < find_range(statistics(normal), "entropy", 255)[1] < 10
    uniform = rng.random(500_000)
    assert find_range(statistics(uniform), "entropy", 255)[1] > 0.95


def test_entropy_sides_of_an_affine_tensor():
    values = np.append(np.random.default_rng(0).normal(size=100_000).clip(-0.5), 30.0)
    low, high = find_range(statistics(values), "entropy", 255)
    assert low == pytest.approx(-0.5)
    assert 2 < high < 15


def test_moving_average_by_hand():
    values = np.array([-4.0, 8.0])
    item = statistics(values, (-4.0, 2.0), (-1.0, 8.0), (-2.0, 4.0))
    weights = np.array([0.81, 0.9, 1.0]) / 2.71
    expected = (float(weights @ [-4, -1, -2]), float(weights @ [2, 8, 4]))
    assert find_range(item, "moving_average", 255) == pytest.approx(expected)


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.just(2)), elements=st.floats(0.5, 8, width=16)))
def test_moving_average_lies_between_the_batches(batches: np.ndarray):
    batches = np.sort(batches, axis=1)
    low, high = find_range(statistics(batches, *map(tuple, batches)), "moving_average", 255)
    assert low == 0
    assert batches[:, 1].min() * (1 - 1e-6) <= high <= batches[:, 1].max()


def test_extremes_of_every_batch_are_recorded(calibrated: Callable[[str], Calibrated]):
    record = calibrated("plain").record
    for item in record.tensors.values():
        assert item.batch_extremes.shape == (5, 2)  # 70 images, 16 at a time
        assert (item.batch_extremes[:, 0].min(), item.batch_extremes[:, 1].max()) == (item.minimum, item.maximum)


weights = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 12)),
    elements=st.floats(-4, 4, width=16),
)


def squared_error(rows: np.ndarray, integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.square(integers * scales.astype(float)[:, None] - rows.astype(float)).sum(1)


@given(weights, st.sampled_from([7, 63, 127]))
def test_weights_by_mse_are_never_worse_than_by_amax(rows: np.ndarray, qmax: int):
    errors = {name: squared_error(rows, *quantize_weights(rows, 0, qmax, method=name)) for name in WEIGHT_METHODS}
    assert (errors["mse"] <= errors["amax"] * (1 + 1e-4) + 1e-10 * np.square(rows).sum(1)).all()


def test_weights_by_mse_against_brute_force():
    rows = np.random.default_rng(0).laplace(size=(6, 400)).astype(np.float32)
    errors = squared_error(rows, *quantize_weights(rows, 0, 7, method="mse"))
    best = np.full(6, np.inf)
    for ratio in np.linspace(0.05, 1, 2000):
        scales = ratio * np.abs(rows).max(1) / 7
        integers = np.clip(np.rint(rows / scales[:, None]), -7, 7)
        best = np.minimum(best, squared_error(rows, integers, scales))
    assert (errors <= 1.01 * best).all()
    assert (errors < 0.85 * squared_error(rows, *quantize_weights(rows, 0, 7))).all()


def test_unknown_weight_method():
    with pytest.raises(UsageError, match="unknown weight method 'max'; did you mean amax"):
        quantize_weights(np.ones((1, 1), np.float32), 0, method="max")
