"""The gate's promises, by simulation: false passes, false fails, and the planner's power."""

import numpy as np
import pytest

from resnetrt.benchmarks.accuracy.gate import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Budget,
    Pairs,
    Spending,
    decide,
    images_to_decide,
)
from resnetrt.benchmarks.accuracy.looks import look_share, look_spending
from resnetrt.benchmarks.accuracy.plan import pass_chance, plan

TRIALS = 10_000
FIRST = Spending(look_share(1))


def doubt(confidence):
    """Three standard errors of the simulated rate."""
    return 3 * np.sqrt(confidence * (1 - confidence) / TRIALS)


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
    assert (verdicts == PASS).mean() <= 1 - confidence + doubt(confidence)
    assert (verdicts == FAIL).mean() <= 1 - confidence + doubt(confidence)


@pytest.mark.parametrize("n", [100, 500, 2000, 10_000, 50_000])
@pytest.mark.parametrize(("top1", "flip_rate"), [(0.9, 0.01), (0.9, 0.05), (0.6, 0.05), (0.75, 0.3)])
def test_so_does_one_at_the_relative_budget(n, top1, flip_rate):
    counts = pairs(n, flip_rate, 0.01 * top1, top1)
    verdicts = decide(*counts, n, Budget(min_relative=0.99))
    assert (verdicts == PASS).mean() <= 0.05 + doubt(0.95)
    assert (verdicts == FAIL).mean() <= 0.05 + doubt(0.95)


def test_a_worse_engine_passes_less_often():
    rates = [(decide(*pairs(2000, 0.03, drop), 2000, Budget(0.5)) == PASS).mean() for drop in (0.0, 0.005, 0.01)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("max_drop", "flip_rate", "power", "true_drop"),
    [(0.5, 0.03, 0.9, 0.0), (1.0, 0.03, 0.8, 0.0), (0.5, 0.01, 0.9, 0.1), (2.0, 0.2, 0.95, 0.0), (5.0, 0.1, 0.5, 0.0)],
)
def test_the_planned_number_of_images_reaches_its_power(max_drop, flip_rate, power, true_drop):
    budget = Budget(max_drop)
    planned = plan(budget, flip_rate, power, true_drop)
    assert planned.power >= power
    counts = pairs(planned.n, flip_rate, true_drop / 100, 0.8)
    simulated = (decide(*counts, planned.n, budget, FIRST) == PASS).mean()
    assert simulated >= power - 3 * np.sqrt(power * (1 - power) / TRIALS)
    assert simulated == pytest.approx(planned.power, abs=0.015)
    assert pass_chance(int(0.9 * planned.n), budget, flip_rate, true_drop) < power, "a tenth fewer would do"


def looks_at(budget, drop, flip_rate, looks, spend, trials=4000):
    """The verdicts `(looks, trials)` of an engine that is looked at after every 2000 images more."""
    lost, gained = (flip_rate + drop) / 2, (flip_rate - drop) / 2
    chances = [0.9 - lost, lost, gained, 0.1 - gained]
    cells = np.random.default_rng(1).multinomial(2000, chances, (looks, trials)).cumsum(0)
    verdicts = []
    for number, counted in enumerate(cells, 1):
        spending = look_spending(number, 1)[0] if spend else Spending()
        verdicts.append(decide(*counted.T[:3], 2000 * number, budget, spending))
    return np.array(verdicts)


@pytest.mark.parametrize("flip_rate", [0.01, 0.03, 0.1])
def test_looking_until_it_passes_passes_no_more_often_than_promised(flip_rate):
    """With the whole level at each of eight looks 14 % and more pass; spent over the looks at most 5 %.

    Three standard errors of 4000 trials are 1.0 %.
    """
    verdicts = looks_at(Budget(0.5), 0.005, flip_rate, 8, spend=True)
    assert (verdicts == PASS).any(0).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    assert (verdicts == FAIL).any(0).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    naive = looks_at(Budget(0.5), 0.005, flip_rate, 8, spend=False)
    assert (naive == PASS).any(0).mean() > 0.13


def test_the_chances_of_all_looks_add_up_to_what_is_promised():
    shares = [look_share(number) for number in range(1, 60)]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("budget", [Budget(1.0), Budget(min_relative=0.99)])
def test_as_many_images_as_are_said_decide_nine_times_of_ten(budget):
    """True drops from well inside the budget to well outside, as far as the first 2000 images leave them undecided.

    100 of these: three standard errors are 9 %. Taking the shares seen for the true ones decided 64 %.
    """
    rng = np.random.default_rng(2)
    decided = []
    first, second = look_spending(1, 1)
    while len(decided) < 100:
        drop, flips = rng.uniform(-0.01, 0.03), 0.04
        chances = [0.88 - drop / 2, (flips + drop) / 2, (flips - drop) / 2, 0.08 + drop / 2]
        seen = rng.multinomial(2000, chances)
        if decide(*seen[:3], 2000, budget, first) != INCONCLUSIVE:
            continue
        more = images_to_decide(Pairs(*seen[:3].tolist(), 2000), budget, second)
        all_of_them = seen + rng.multinomial(more, chances)
        decided.append(decide(*all_of_them[:3], 2000 + more, budget, second) != INCONCLUSIVE)
    assert np.mean(decided) >= 0.9 - 3 * np.sqrt(0.09 / 100)


def test_as_many_images_as_are_said_let_an_equal_engine_pass():
    """150 engines that 1000 images leave undecided: three standard errors are 7 %."""
    budget, chances, rng = Budget(1.0), [0.88, 0.02, 0.02, 0.08], np.random.default_rng(5)
    first, second = look_spending(1, 1)
    passed = []
    while len(passed) < 150:
        seen = rng.multinomial(1000, chances)
        if decide(*seen[:3], 1000, budget, first) == INCONCLUSIVE:
            more = images_to_decide(Pairs(*seen[:3].tolist(), 1000), budget, second, equal=True)
            counts = seen + rng.multinomial(more, chances)
            passed.append(decide(*counts[:3], 1000 + more, budget, second) == PASS)
    assert np.mean(passed) >= 0.9 - 3 * np.sqrt(0.09 / 150)


@pytest.mark.parametrize("together", [False, True])
def test_as_many_images_as_are_planned_let_all_engines_pass(together):
    """Also if what makes one engine fail makes the others fail, or not."""
    budget = Budget(0.5)
    planned = plan(budget, 0.03, 0.9, engines=6)
    assert planned.n > plan(budget, 0.03, 0.9).n
    shape = (TRIALS, 1 if together else 6)
    counts = np.random.default_rng(3).multinomial(planned.n, [0.785, 0.015, 0.015, 0.185], shape)
    both, lost, gained, _ = np.moveaxis(counts, -1, 0)
    passes = decide(both, lost, gained, planned.n, budget, FIRST) == PASS
    assert passes.all(1).mean() >= 0.9 - doubt(0.9)


@pytest.mark.parametrize("side", [PASS, FAIL])
def test_no_engine_of_several_is_judged_wrongly_more_often_than_promised(side):
    """Ten engines exactly at the budget, each judged with its share; with the whole level a third are wrong."""
    budget = Budget(0.5)
    counts = np.random.default_rng(4).multinomial(5000, [0.8825, 0.0175, 0.0125, 0.0875], (TRIALS, 10))
    both, lost, gained, _ = np.moveaxis(counts, -1, 0)
    shared, whole = (decide(both, lost, gained, 5000, budget, Spending(x, x)) == side for x in (0.1, 1.0))
    assert shared.any(1).mean() <= 0.05 + doubt(0.95)
    assert whole.any(1).mean() > 0.25
