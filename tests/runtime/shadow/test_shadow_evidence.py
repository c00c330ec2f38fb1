"""The sequential test by simulation: its false alarms, and what it takes to see a fault."""

from functools import cache

import numpy as np
import pytest

from resnetrt.errors import UsageError
from resnetrt.runtime.shadow import baseline
from resnetrt.runtime.shadow.baseline import Baseline
from resnetrt.runtime.shadow.evidence import RateEvidence, upper_rate
from resnetrt.runtime.shadow.judge import baseline_chance

RUNS = 10_000


def share_that_alarms(rate: float, true_rate: float, alpha: float, steps: int, seed: int = 0) -> float:
    """Of `RUNS` sequences of hits, how many ever bring the evidence to 1/alpha."""
    rng = np.random.default_rng(seed)
    evidence, highest = RateEvidence(np.full(RUNS, rate)), np.ones(RUNS)
    for _ in range(steps):
        highest = np.maximum(highest, evidence.add(rng.random(RUNS) < true_rate))
    return float((highest >= 1 / alpha).mean())


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.17, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_false_alarms_stay_within_alpha_at_the_very_rate_that_is_allowed(rate: float, alpha: float):
    assert share_that_alarms(rate, rate, alpha, 500) <= alpha


def test_a_rate_beyond_what_is_allowed_breaks_the_bound():
    assert share_that_alarms(0.17, 0.3, 0.05, 500) > 0.9


def test_the_whole_check_keeps_alpha_with_a_measured_baseline(monkeypatch: pytest.MonkeyPatch):
    """Flips and noise of one engine, dependent as they are; baseline and requests from the same distribution."""
    monkeypatch.setattr(baseline, "upper_rate", cache(upper_rate))
    alpha, images, steps = 0.05, 32, 300
    rng = np.random.default_rng(1)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.lognormal(-6, 1.0, (count, RUNS))
        return rng.random((count, RUNS)) < np.minimum(30 * noise, 1) * 0.5, noise  # noisy images flip more

    flips, noise = draw(images)
    chance = baseline_chance(alpha)
    baselines = [Baseline.of_samples(flips[:, run], noise[:, run], chance, "simulated") for run in range(RUNS)]
    margin = 10 ** (1 / 10)  # taken off again: it only helps
    limits = np.array([[limit.limit / margin for limit in item.noise] for item in baselines])
    tests = RateEvidence([[item.flip_rate, *(limit.rate for limit in item.noise)] for item in baselines])
    highest = np.ones(RUNS)
    for _ in range(steps):
        flip, noise = (part[0] for part in draw(1))
        values = tests.add(np.column_stack([flip, noise[:, None] > limits]))
        highest = np.maximum(highest, values.mean(1))
    assert (highest >= 2 / alpha).mean() <= alpha


def requests_until(rate: float, true_rate: float, healthy: int, limit: int = 2000) -> int:
    rng = np.random.default_rng(2)
    evidence = RateEvidence(rate)
    for _ in range(healthy):
        evidence.add(False)
    for count in range(1, limit + 1):
        if evidence.add(rng.random() < true_rate) >= 200:
            return count
    return limit


def test_a_fault_is_seen_soon_even_after_a_long_sound_time():
    assert requests_until(0.05, 0.9, healthy=0) < 15
    assert requests_until(0.05, 0.9, healthy=20_000) < 25


def test_one_sequence_and_many_give_the_same_numbers():
    hits = np.random.default_rng(3).random((50, 4)) < 0.3
    many, single = RateEvidence(np.full(4, 0.1)), RateEvidence(0.1)
    for row in hits:
        assert np.shape(single.add(row[2])) == ()
        many.add(row)
    assert many.value[2] == pytest.approx(float(single.value), rel=1e-12)


def test_the_value_is_one_before_anything_is_seen():
    assert float(RateEvidence(0.1).value) == pytest.approx(1.0)


@pytest.mark.parametrize("rate", [0.0, 1.0, 0.95, float("nan")])
def test_a_rate_that_nothing_exceeds_is_refused(rate: float):
    with pytest.raises(UsageError, match="expected a rate above 0"):
        RateEvidence(rate)


@pytest.mark.parametrize(("hits", "n"), [(0, 32), (3, 32), (99, 10_000), (31, 32)])
def test_the_upper_bound_is_clopper_and_pearsons(hits: int, n: int):
    stats = pytest.importorskip("scipy.stats", reason="the extra report")
    assert upper_rate(hits, n, 0.0025) == pytest.approx(stats.beta.ppf(1 - 0.0025, hits + 1, n - hits), rel=1e-9)


def test_all_hits_bound_nothing():
    assert upper_rate(5, 5, 0.1) == 1.0


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_counts_that_can_not_be_are_refused(hits: int, n: int):
    with pytest.raises(UsageError, match="hits"):
        upper_rate(hits, n, 0.1)
