"""The interval of an accuracy drop: against published figures, brute force and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from resnetrt.benchmarks.stats.noninferiority import drop_interval

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400)).filter(lambda c: sum(c) > 0)


def profile_score(lost, gained, n, drop):
    """The score statistic with the constrained maximum found numerically instead of by Tango's closed form."""

    def unlikelihood(q):
        cells = [(lost, q + drop), (gained, q), (n - lost - gained, 1 - 2 * q - drop)]
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    low, high = max(0.0, -drop), (1 - drop) / 2
    q = minimize_scalar(unlikelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return (lost - gained - n * drop) / math.sqrt(n * (2 * q + drop - drop * drop))


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(12, 2, 50), (86, 150, 1600), (3, 1, 20), (30, 25, 2000), (1, 8, 40)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_limits_are_where_the_numerical_score_test_rejects(lost, gained, n, confidence):
    z = norm.ppf(0.5 + confidence / 2)
    low, high = drop_interval(lost, gained, n, confidence)
    assert profile_score(lost, gained, n, low) == pytest.approx(z, abs=1e-4)
    assert profile_score(lost, gained, n, high) == pytest.approx(-z, abs=1e-4)


@pytest.mark.parametrize("n", [1, 10, 2000])
def test_no_discordant_image_still_leaves_doubt(n):
    limit = norm.ppf(0.975) ** 2 / (n + norm.ppf(0.975) ** 2)  # Tango 1998, for zero discordant pairs
    assert drop_interval(0, 0, n) == pytest.approx((-limit, limit))


@given(counts)
def test_interval_holds_the_estimate_and_mirrors(cells):
    lost, gained, same = cells
    n = lost + gained + same
    low, high = drop_interval(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    assert drop_interval(gained, lost, n) == pytest.approx((-high, -low), abs=1e-9)


@given(counts)
def test_more_confidence_is_wider(cells):
    lost, gained, _ = cells
    low, high = drop_interval(lost, gained, sum(cells), 0.9)
    wider_low, wider_high = drop_interval(lost, gained, sum(cells), 0.99)
    assert wider_low <= low
    assert high <= wider_high


@pytest.mark.parametrize(("n", "loss", "gain"), [(100, 0.02, 0.01), (500, 0.01, 0.01), (2000, 0.015, 0.005)])
def test_coverage(n, loss, gain):
    rng = np.random.default_rng(0)
    trials = rng.multinomial(n, [loss, gain, 1 - loss - gain], 1500)
    intervals = [drop_interval(int(lost), int(gained), n) for lost, gained, _ in trials]
    covered = np.mean([low <= loss - gain <= high for low, high in intervals])
    assert 0.935 <= covered <= 0.985


@pytest.mark.parametrize(("lost", "gained", "n"), [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_senseless_counts_are_refused(lost, gained, n):
    with pytest.raises(ValueError, match="expected 0 <= lost"):
        drop_interval(lost, gained, n)
