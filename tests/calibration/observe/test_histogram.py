"""Streaming in any order equals counting everything at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetrt.calibration.observe.histogram import Histogram
from resnetrt.calibration_record import BINS_PER_SIDE, bin_centers

BINS = 2 * BINS_PER_SIDE

# normal numbers: below, a value times a power of two is no longer exact
values = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda x: 0.0 if abs(x) < 2.0**-60 else x)
batches = st.lists(st.lists(values, min_size=1, max_size=20), min_size=1, max_size=6)


def count(parts: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, float(part.min()), float(part.max()))
    return histogram


def counted_at_once(everything: np.ndarray) -> tuple[float, np.ndarray]:
    """The bound and numpy's own histogram over it, in float64."""
    magnitude = float(np.abs(everything).max())
    if magnitude == 0:
        counts = np.zeros(BINS, np.int64)
        counts[BINS_PER_SIDE] = everything.size
        return 0.0, counts
    bound = 2.0 ** math.frexp(magnitude)[1]  # magnitude = mantissa * 2^exponent, 0.5 <= mantissa < 1
    edges = np.arange(-BINS_PER_SIDE, BINS_PER_SIDE + 1) * (bound / BINS_PER_SIDE)
    return bound, np.histogram(everything.astype(np.float64), edges)[0]


@given(batches)
def test_any_batches_equal_counting_at_once(parts: list[list[float]]):
    arrays = [np.array(part, np.float32) for part in parts]
    bound, counts = counted_at_once(np.concatenate(arrays))
    histogram = count(arrays)
    assert histogram.bound == bound
    np.testing.assert_array_equal(histogram.counts, counts)
    assert histogram.minimum == min(part.min() for part in arrays)
    assert histogram.maximum == max(part.max() for part in arrays)


@given(batches, st.randoms())
def test_the_order_of_batches_does_not_matter(parts: list[list[float]], random: object):
    arrays = [np.array(part, np.float32) for part in parts]
    first = count(arrays)
    random.shuffle(arrays)  # type: ignore[attr-defined]
    second = count(arrays)
    assert (first.bound, first.minimum, first.maximum) == (second.bound, second.minimum, second.maximum)
    np.testing.assert_array_equal(first.counts, second.counts)


@pytest.mark.parametrize("exponent", [-148, -140, -126, -116, -1, 0, 10, 127])
@pytest.mark.parametrize("sign", [1, -1])
def test_powers_of_two_at_the_edge_of_a_bin(exponent: int, sign: int):
    edge = np.array([sign * 2.0**exponent, 0.0], np.float32)
    histogram = count([edge])
    assert histogram.bound == 2.0 ** (exponent + 1)
    assert histogram.counts.sum() == 2
    assert histogram.counts[BINS_PER_SIDE] == 1
    assert histogram.counts[BINS_PER_SIDE + sign * BINS_PER_SIDE // 2] == 1


def test_largest_float32():
    largest = np.finfo(np.float32).max
    histogram = count([np.array([-largest, largest], np.float32)])
    assert histogram.bound == 2.0**128
    assert (histogram.counts[0], histogram.counts[-1]) == (1, 1)


def test_zeros_before_and_after_the_first_value_are_counted_alike():
    zeros, one = np.zeros(5, np.float32), np.ones(1, np.float32)
    for parts in ([zeros, one], [one, zeros], [zeros]):
        histogram = count(parts)
        assert histogram.counts[BINS_PER_SIDE] == 5
    assert histogram.bound == 0
    np.testing.assert_array_equal(histogram.centers(), np.zeros(BINS))


def test_any_shape_is_counted_and_left_alone():
    block = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    before = block.copy()
    histogram = count([block, np.asfortranarray(block), block.transpose(3, 0, 1, 2)])
    assert histogram.counts.sum() == 3 * block.size
    np.testing.assert_array_equal(histogram.counts, 3 * count([block]).counts)
    np.testing.assert_array_equal(block, before)


def test_memory_does_not_grow_with_the_data():
    histogram = Histogram()
    rng = np.random.default_rng(0)
    for scale in 10.0 ** np.arange(-20, 20):
        part = (scale * rng.normal(size=1000)).astype(np.float32)
        histogram.add(part, float(part.min()), float(part.max()))
        assert histogram.counts.shape == (BINS,)
        assert histogram.counts.dtype == np.int64
    assert histogram.counts.sum() == 40_000
    assert vars(histogram).keys() == {"bound", "counts", "minimum", "maximum"}


def test_centers_are_the_middles_of_the_bins():
    centers = bin_centers(4096.0)
    assert centers.shape == (BINS,)
    assert centers[0] == -4095.5
    assert centers[BINS_PER_SIDE] == 0.5
    np.testing.assert_array_equal(centers, -centers[::-1])
