"""The gate's promises, by simulation: false passes, false fails, and the planner's power."""

import numpy as np
import pytest

from resnetrt.benchmarks.gate import FAIL, PASS, Budget, decide
from resnetrt.benchmarks.plan import pass_chance, plan

TRIALS = 10_000
DOUBT = 3 * np.sqrt(0.05 * 0.95 / TRIALS)  # three standard errors of the simulation


def pairs(n, flip_rate, drop, top1=0.9, seed=0):
    """`both`, `lost`, `gained`, each `(TRIALS,)`, of a candidate whose true drop is `drop`."""
    lost, gained = (flip_rate + drop) / 2, (flip_rate - drop) / 2
    cells = [top1 - lost, lost, gained, 1 - top1 - gained]
    return np.random.default_rng(seed).multinomial(n, cells, TRIALS).T[:3]


@pytest.mark.parametrize("n", [100, 500, 2000, 10_000, 50_000])
@pytest.mark.parametrize("flip_rate", [0.0051, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_an_engine_at_the_budget_passes_no_more_often_than_promised(n, flip_rate, confidence):
    counts = pairs(n, flip_rate, 0.005)
    verdicts = decide(*counts, n, Budget(max_drop_pp=0.5, confidence=confidence))
    assert (verdicts == PASS).mean() <= 1 - confidence + DOUBT
    assert (verdicts == FAIL).mean() <= 1 - confidence + DOUBT


@pytest.mark.parametrize("n", [100, 500, 2000, 10_000, 50_000])
@pytest.mark.parametrize(("top1", "flip_rate"), [(0.9, 0.01), (0.9, 0.05), (0.6, 0.05), (0.75, 0.3)])
def test_so_does_one_at_the_relative_budget(n, top1, flip_rate):
    counts = pairs(n, flip_rate, 0.01 * top1, top1)
    verdicts = decide(*counts, n, Budget(min_relative=0.99))
    assert (verdicts == PASS).mean() <= 0.05 + DOUBT
    assert (verdicts == FAIL).mean() <= 0.05 + DOUBT


def test_a_worse_engine_passes_less_often():
    rates = [(decide(*pairs(2000, 0.03, drop), 2000, Budget(0.5)) == PASS).mean() for drop in (0.0, 0.005, 0.01)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("max_drop", "flip_rate", "power", "true_drop"),
    [(0.5, 0.03, 0.9, 0.0), (1.0, 0.03, 0.8, 0.0), (0.5, 0.01, 0.9, 0.1), (2.0, 0.2, 0.95, 0.0), (5.0, 0.1, 0.5, 0.0)],
)
def test_the_planned_number_of_images_reaches_its_power(max_drop, flip_rate, power, true_drop):
    budget = Budget(max_drop)
    found = plan(budget, flip_rate, power, true_drop)
    assert found.power >= power
    counts = pairs(found.n, flip_rate, true_drop / 100, 0.8)
    simulated = (decide(*counts, found.n, budget) == PASS).mean()
    assert simulated >= power - 3 * np.sqrt(power * (1 - power) / TRIALS)
    assert simulated == pytest.approx(found.power, abs=0.015)
    assert pass_chance(int(0.9 * found.n), budget, flip_rate, true_drop) < power, "a tenth fewer would do"
