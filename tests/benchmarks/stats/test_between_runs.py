"""Student's t without scipy, and Holm's correction."""

import math

import pytest
import scipy.stats

from resnetrt.benchmarks.stats.between_runs import differ, student_t, student_tail
from resnetrt.benchmarks.stats.holm import holm


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 18, 101])
def test_students_t_is_scipys(df):
    for t in (-3.0, 0.0, 0.5, 2.0, 10.0):
        assert student_tail(t, df) == pytest.approx(scipy.stats.t.sf(t, df), abs=1e-12)
    for tail in (0.1, 0.025, 0.025 / 12):
        assert student_t(tail, df) == pytest.approx(scipy.stats.t.isf(tail, df), rel=1e-6)


def test_the_difference_is_the_two_sample_t_tests():
    old, new = [0.1, 0.3, 0.2], [0.5, 0.4, 0.45, 0.6]
    difference = differ(old, new)
    known = scipy.stats.ttest_ind(new, old).confidence_interval()
    assert difference.log_ratio - difference.reach(0.025) == pytest.approx(known.low)
    assert difference.log_ratio + difference.reach(0.025) == pytest.approx(known.high)
    assert difference.tail_above(0.0) == pytest.approx(scipy.stats.ttest_ind(new, old, alternative="greater").pvalue)


def test_one_stored_run_has_the_other_sides_spread():
    difference = differ([0.0], [0.01, 0.03])
    assert (difference.df, difference.standard_error) == (1, pytest.approx(math.sqrt(0.0002 * 1.5)))
    assert differ([0.0], [0.01, 0.03], least_variance=0.01).standard_error == pytest.approx(math.sqrt(0.015))
    assert differ([0.0], [0.1]) is None
    assert differ([], [0.1, 0.2, 0.3]) is None


def test_runs_without_any_spread_are_judged_by_their_difference():
    difference = differ([0.1, 0.1], [0.2, 0.2])
    assert (difference.tail_above(0.05), difference.tail_above(0.1)) == (0.0, 1.0)


def test_holm_steps_down():
    assert [p <= 0.05 for p in holm([0.04, 0.001, 0.012, 0.5])] == [False, True, True, False]
    assert [p <= 0.05 for p in holm([0.03, 0.04])] == [False, False]
    assert holm([]) == []
