"""The timing function on a clock that the test turns: schedule, statistics, intervals and planted slowdowns."""

import gc
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnetrt.benchmarks.measure.timing import (
    CONFIDENCE,
    ENOUGH_ROUNDS,
    Schedule,
    measure,
    median_interval,
    order,
    ratio,
    summarise,
)
from resnetrt.errors import UsageError

MS = 1_000_000


class FakeClock:
    """Nanoseconds that pass only when a candidate works; remembers who worked."""

    def __init__(self):
        self.now = 0
        self.calls = []

    def __call__(self):
        return self.now

    def candidate(self, name, duration_ms):
        """A callable that takes `duration_ms()` each time."""

        def call():
            self.calls.append(name)
            self.now += round(duration_ms() * MS)

        return call

    def blocks(self):
        """`(name, calls)` of each run of consecutive calls."""
        return [(name, len(list(group))) for name, group in itertools.groupby(self.calls)]


def quick(**options):
    return Schedule(**({"rounds": 6, "block_calls": 5, "settle_s": 0, "warm_up_s": 0} | options))


@pytest.mark.parametrize(("least", "rounds"), [(1, 1), (6, 6), (9, 6)])
def test_a_spent_budget_waits_for_the_least_number_of_rounds(least, rounds):
    clock = FakeClock()
    timing = measure(
        {"slow": clock.candidate("slow", lambda: 900.0)}, quick(budget_s=0.1, least_rounds=least), clock=clock
    )
    assert len(timing["slow"].round_medians_ms) == rounds


def test_blocks_are_consecutive_and_their_order_rotates():
    clock = FakeClock()
    calls = {name: clock.candidate(name, lambda: 1.0) for name in "abc"}
    timings = measure(calls, quick(), clock=clock)
    assert [timing.n for timing in timings.values()] == [30, 30, 30]
    warm_up, rounds = clock.calls[:9], clock.calls[9:]
    assert warm_up == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    # each block is five timed calls and an untimed one before them
    assert len(rounds) == 6 * 3 * 6
    sequence = [rounds[i] for i in range(0, len(rounds), 6)]
    assert all(len(set(rounds[i : i + 6])) == 1 for i in range(0, len(rounds), 6))
    assert "".join(sequence) == "abcbcacabcbaacbbac"


@given(st.integers(1, 7), st.integers(1, 5))
def test_every_candidate_stands_in_every_place_equally_often(count, turns):
    names = [str(i) for i in range(count)]
    places = Counter()
    for index in range(turns * count):
        turn = order(names, index)
        assert sorted(turn) == names
        places.update(enumerate(turn))
    assert set(places.values()) == {turns}


def test_warm_up_and_settling_calls_are_not_counted():
    clock = FakeClock()
    blocks = itertools.count()

    def cold():
        # the first four calls after the other candidate worked are slow, as after another's spinning thread pool
        recent = list(itertools.takewhile(lambda name: name == "cold", reversed(clock.calls)))
        return 10.0 if len(recent) <= 4 else 1.0

    calls = {"cold": clock.candidate("cold", cold), "other": clock.candidate("other", lambda: next(blocks) * 0 + 1.0)}
    settled = measure(calls, quick(settle_s=0.04), clock=clock)["cold"]
    assert (settled.median_ms, settled.p99_ms, settled.n) == (1.0, 1.0, 30)
    unsettled = measure(calls, quick(), clock=clock)["cold"]
    assert unsettled.p99_ms == 10.0  # the fault is seen without settling


def test_slow_first_calls_stay_in_the_warm_up():
    clock = FakeClock()
    first = itertools.chain([500.0, 300.0], itertools.repeat(2.0))
    timing = measure({"a": clock.candidate("a", lambda: next(first))}, quick(warm_up_s=1.0), clock=clock)["a"]
    assert timing.p99_ms == 2.0


def test_a_block_lasts_as_long_as_asked():
    clock = FakeClock()
    calls = {"fast": clock.candidate("fast", lambda: 0.5), "slow": clock.candidate("slow", lambda: 30.0)}
    timings = measure(calls, quick(block_calls=None, min_block_s=0.1, rounds=4), clock=clock)
    assert timings["fast"].n == 4 * 200
    assert timings["slow"].n == 4 * 4


def test_the_budget_shrinks_blocks_first_and_then_rounds():
    clock = FakeClock()
    calls = {name: clock.candidate(name, lambda: 10.0) for name in "ab"}
    timings = measure(calls, quick(rounds=10, block_calls=1000, budget_s=2.0), clock=clock)
    assert 8 * 10 <= timings["a"].n == timings["b"].n < 1000
    assert len(timings["a"].round_medians_ms) == 10
    assert clock.now < 2.1e9
    clock = FakeClock()
    calls = {name: clock.candidate(name, lambda: 1000.0) for name in "ab"}
    timings = measure(calls, quick(rounds=10, budget_s=12.0), clock=clock)
    assert len(timings["a"].round_medians_ms) == len(timings["b"].round_medians_ms) == 2


def test_progress_wraps_the_rounds():
    clock, seen = FakeClock(), []

    def progress(rounds):
        for index in rounds:
            seen.append((index, len(rounds)))
            yield index

    measure({"a": clock.candidate("a", lambda: 1.0)}, quick(), progress, clock)
    assert seen == [(i, 6) for i in range(6)]


def test_a_real_clock_and_real_calls():
    timings = measure({"sum": lambda: sum(range(100)), "max": lambda: max(range(100))}, quick())
    assert all(0 < timing.median_ms <= timing.p90_ms <= timing.p99_ms for timing in timings.values())
    assert ratio(timings["sum"], timings["max"]).value > 0


def test_garbage_collection_waits_for_the_end_of_a_block():
    clock, states = FakeClock(), []
    call = clock.candidate("a", lambda: 1.0)
    measure({"a": lambda: (call(), states.append(gc.isenabled()))}, quick(rounds=1), clock=clock)
    assert states == [True] * 3 + [False] * 6
    assert gc.isenabled()


def test_a_failing_candidate_is_not_swallowed_and_garbage_collection_returns():
    def fail():
        fail.calls = getattr(fail, "calls", 0) + 1
        if fail.calls > 5:
            raise RuntimeError("engine lost")

    with pytest.raises(RuntimeError, match="engine lost"):
        measure({"a": fail}, quick(), clock=FakeClock())
    assert gc.isenabled()


durations = st.lists(st.integers(1, 10**10), min_size=1, max_size=40)


@given(st.lists(durations, min_size=1, max_size=12))
def test_statistics_are_numpys(blocks):
    timing = summarise(blocks)
    pooled = np.concatenate([np.array(block) for block in blocks]) / 1e6
    assert timing.n == pooled.size
    np.testing.assert_allclose(
        [timing.median_ms, timing.p90_ms, timing.p99_ms, timing.spread_ms],
        [
            np.median(pooled),
            np.quantile(pooled, 0.9),
            np.quantile(pooled, 0.99),
            np.subtract(*np.quantile(pooled, [0.75, 0.25])),
        ],
        rtol=1e-9,
        atol=1e-9,
    )
    np.testing.assert_allclose(timing.round_medians_ms, [np.median(block) / 1e6 for block in blocks])
    assert timing.ci_ms[0] <= timing.median_ms <= timing.ci_ms[1]


def zigzag(n):
    """1 to n in an order in which neighbours are not alike."""
    return [float(value) for pair in zip(range(1, n + 1), range(n, 0, -1), strict=True) for value in pair][:n]


@pytest.mark.parametrize(("rounds", "alike"), [(11, 0.0), (11, 0.6), (33, 0.0), (33, 0.6), (33, 0.8)])
def test_the_interval_holds_when_rounds_are_alike(rounds, alike):
    """At 93 % of 2,000 series, less two standard errors (1.1 %); ranks of independent rounds cover 59 to 87 %."""
    rng = np.random.default_rng(3)
    series = np.empty((2000, rounds))
    series[:, 0] = rng.standard_normal(2000)
    for i in range(1, rounds):
        series[:, i] = alike * series[:, i - 1] + math.sqrt(1 - alike**2) * rng.standard_normal(2000)
    intervals = [median_interval(values) for values in series]
    assert np.mean([low <= 0 <= high for low, high, _ in intervals]) >= 0.93 - 0.011


def test_rounds_that_rise_steadily_have_no_interval_of_95_percent():
    low, high, attained = median_interval([float(value) for value in range(11)])
    assert (low, high) == (0.0, 10.0)
    assert attained < 0.8


@pytest.mark.parametrize(
    ("n", "k", "confidence"),
    # ranks and coverages of the sign test's interval, tabulated in Conover, Practical Nonparametric Statistics
    [(1, 1, 0.0), (5, 1, 0.9375), (6, 1, 0.96875), (9, 2, 0.9609), (15, 4, 0.9648), (20, 6, 0.9586), (25, 8, 0.9567)],
)
def test_ranks_of_the_median_interval(n, k, confidence):
    low, high, attained = median_interval(zigzag(n))
    assert (low, high) == (k, n + 1 - k)
    assert attained == pytest.approx(confidence, abs=5e-5)


@given(st.integers(6, 200))
def test_median_interval_is_the_narrowest_that_keeps_its_confidence(n):
    from scipy.stats import binom

    low, _, attained = median_interval(zigzag(n))
    assert attained == pytest.approx(1 - 2 * binom.cdf(low - 1, n, 0.5), abs=1e-9)
    assert attained >= 0.95 or math.isclose(attained, 0.95)
    if low < (n + 1) // 2:
        assert 1 - 2 * binom.cdf(low, n, 0.5) < 0.95


def noisy_run(seed, factor):
    """Two candidates, one `factor` as slow, under drift between rounds, noise between calls and rare disturbances."""
    rng = np.random.default_rng(seed)
    clock = FakeClock()

    def duration(base):
        drift = 1 + 0.2 * math.sin(clock.now / 1.5e9 + seed) + 0.1 * (clock.now / 1e10)
        disturbed = 3.0 if rng.random() < 0.02 else 1.0
        return base * drift * disturbed * (1 + 0.05 * rng.standard_exponential())

    calls = {
        "a": clock.candidate("a", lambda: duration(10.0)),
        "b": clock.candidate("b", lambda: duration(10.0 * factor)),
    }
    timings = measure(calls, quick(rounds=15, block_calls=8), clock=clock)
    return ratio(timings["b"], timings["a"])


def test_a_planted_slowdown_of_ten_percent_is_found_every_time():
    ratios = [noisy_run(seed, 1.1) for seed in range(40)]
    assert all(result.low > 1.0 for result in ratios)
    assert sum(result.low <= 1.1 <= result.high for result in ratios) >= 36


def test_the_same_thing_twice_is_no_slowdown():
    ratios = [noisy_run(seed, 1.0) for seed in range(100)]
    assert sum(result.low <= 1.0 <= result.high for result in ratios) >= 92


def test_the_interval_allows_for_drift_between_rounds():
    """Calls of a round share its level, so an interval over calls would be far too narrow."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        levels = rng.normal(100 * MS, 5 * MS, 15)
        timing = summarise([rng.normal(level, 0.1 * MS, 50) for level in levels])
        covered += timing.ci_ms[0] <= 100 <= timing.ci_ms[1]
    assert covered >= 184


@settings(max_examples=30)
@given(st.floats(0.01, 100), st.lists(st.floats(0.5, 2), min_size=1, max_size=20))
def test_a_paired_ratio_cancels_what_rounds_share(factor, levels):
    base = [[level * 1e9] for level in levels]
    slow = [[level * 1e9 * factor] for level in levels]
    measured = ratio(summarise(slow), summarise(base))
    if len(levels) < ENOUGH_ROUNDS:
        assert measured is None
        return
    assert (measured.low, measured.value, measured.high) == pytest.approx((factor,) * 3)


def test_a_ratio_across_runs_is_refused():
    with pytest.raises(ValueError, match="same run"):
        ratio(summarise([[1]], run=1), summarise([[1]], run=2))


def test_json_has_plain_numbers_with_units_in_their_names():
    record = summarise([[1e6, 2e6], [3e6]]).to_json()
    assert record == {
        "n": 3,
        "median_ms": 2.0,
        "p90_ms": pytest.approx(2.8),
        "p99_ms": pytest.approx(2.98),
        "spread_ms": 1.0,
        "ci_ms": [1.5, 3.0],
        "ci_confidence": 0.5,
        "round_medians_ms": [1.5, 3.0],
        "device_median_ms": None,
        "device_p90_ms": None,
        "device_p99_ms": None,
    }


@pytest.mark.parametrize(
    "options",
    [{"rounds": 0}, {"block_calls": 0}, {"warm_up_s": -1}, {"settle_s": -1}, {"budget_s": 0}, {"budget_s": -1}],
)
def test_a_senseless_schedule_is_refused(options):
    with pytest.raises(UsageError, match=r"timing.*expected"):
        Schedule(**options)


def test_nothing_to_measure_is_refused():
    with pytest.raises(UsageError, match="expected at least one candidate, found none"):
        measure({})


@given(st.floats(0.1, 2000), st.integers(1, 4), st.none() | st.integers(1, 30))
def test_the_most_that_a_candidate_takes(call_ms, rounds, block_calls):
    clock = FakeClock()
    schedule = Schedule(rounds=rounds, block_calls=block_calls)
    measure({"a": clock.candidate("a", lambda: call_ms)}, schedule, clock=clock)
    most_ns = schedule.most_s(call_ms / 1e3) * 1e9
    assert 0.25 * most_ns < clock.now < 1.001 * most_ns


def test_enough_rounds_are_the_fewest_that_reach_the_confidence():
    assert median_interval(zigzag(ENOUGH_ROUNDS))[2] >= CONFIDENCE > median_interval(zigzag(ENOUGH_ROUNDS - 1))[2]
