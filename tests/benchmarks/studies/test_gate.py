"""The study of the gate's verdicts: its parts on few trials, and the rates that are committed."""

import re
from pathlib import Path

import numpy as np
import pytest

from resnetrt.benchmarks.accuracy.gate import FAIL, PASS, Budget, Pairs
from resnetrt.benchmarks.studies import gate as gate_study

RESULTS = Path(gate_study.__file__).parents[1] / "results" / "gate-verdicts-simulation.md"


def rows(first):
    """The cells of the table whose header begins with `first`, numbers in percent as floats."""
    table = RESULTS.read_text().split(f"| {first}")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


def percent(cell):
    return float(re.fullmatch(r"([\d.]+) %", cell)[1])


def test_the_enumerated_rates_are_as_promised():
    for promised, _, passes, fails, plain in rows("engine exactly at the budget, promised"):
        assert percent(passes) <= percent(promised)
        assert percent(fails) <= percent(promised)
        assert percent(fails) < percent(plain)


@pytest.mark.parametrize("first", ["looked at until it passes", "engines, all exactly at the budget"])
def test_the_simulated_rates_are_as_promised(first):
    """20,000 trials: three standard errors of 5 % are 0.46 %."""
    for row in rows(first):
        assert max(map(percent, row[-2:])) <= 5.46
        assert max(map(percent, row[-4:-2])) > 7


def test_groups_hold_what_frames_do_not():
    for *_, frames, groups in rows("engine exactly at the budget of 2 pp"):
        assert percent(groups) <= 5 + 300 * np.sqrt(0.05 * 0.95 / 4000)
        assert percent(frames) > percent(groups)


def test_likely_counts_are_nearly_all():
    chance, lost, gained = gate_study.likely(5000, 0.02, 0.001)
    assert chance.sum() == pytest.approx(1, abs=1e-6)
    assert (chance * lost).sum() == pytest.approx(100, rel=1e-5)
    assert (chance * gained).sum() == pytest.approx(5, rel=1e-5)


def test_looks_are_worse_with_the_whole_level_at_each():
    whole, spent = gate_study.looks(np.random.default_rng(0), Budget(0.5), 0.005, 0.03, 1000, 6, 1500)
    assert (spent == PASS).any(0).mean() < 0.07 < (whole == PASS).any(0).mean()
    assert ((whole == FAIL) >= (spent == FAIL)).all()


def test_the_plainer_number_of_images_decides_if_the_shares_go_on():
    budget, pairs = Budget(0.5), Pairs(900, 4, 3, 1000)
    more = gate_study.as_seen(pairs, budget)
    k = 1 + more / 1000
    assert gate_study.decide(k * 900, k * 4, k * 3, k * 1000, budget) == PASS
    k -= 0.02
    assert gate_study.decide(k * 900, k * 4, k * 3, k * 1000, budget) != PASS
