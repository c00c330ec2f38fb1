import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from resnetrt.runtime.stream import LatencyHistogram
from resnetrt.runtime.stream.histogram import RATIO


@given(st.lists(st.integers(2_000, 10**11), min_size=1, max_size=200), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_at_most_one_bucket_too_long(durations, percent):
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.record(duration)
    exact = float(np.percentile(durations, percent, method="inverted_cdf")) / 1e6
    assert exact * 0.999 <= histogram.percentile(percent) <= exact * RATIO * 1.001


def test_what_is_outside_the_buckets_is_counted_too():
    histogram = LatencyHistogram()
    for duration in (0, 1, 10**15):
        histogram.record(duration)
    assert (histogram.count, histogram.max_ms) == (3, 1e9)
    assert histogram.sum_ms * 1e6 == 1 + 10**15
    assert sum(int(line.split("ms")[1].split()[0]) for line in histogram.bars()) == 3


def test_empty():
    histogram = LatencyHistogram()
    assert histogram.percentile(99) is None
    assert histogram.bars() == []
    assert histogram.to_json()["mean_ms"] is None


def test_counts_below_limits_are_cumulative():
    histogram = LatencyHistogram()
    for duration_ms in (0.5, 1.5, 30.0, 200.0):
        histogram.record(int(duration_ms * 1e6))
    assert histogram.below((1.0, 10.0, 100.0, 1000.0)) == [1, 2, 3, 4]
