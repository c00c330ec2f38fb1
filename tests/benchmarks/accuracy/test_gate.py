"""The gate's parts: verdicts, bounds, McNemar, Holm, calibration error, planning limits, files."""

import hashlib
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from resnetrt.benchmarks.accuracy import gate
from resnetrt.benchmarks.accuracy.classes import class_drops
from resnetrt.benchmarks.accuracy.comparison import BatchOutcomes, Outcomes, PairedOutcomes
from resnetrt.benchmarks.accuracy.gate import FAIL, INCONCLUSIVE, PASS, Budget, Pairs, judge_pairs
from resnetrt.benchmarks.accuracy.gate_rows import calibration_error, gate_rows
from resnetrt.benchmarks.accuracy.outcomes import FileJournal, read_results, write_results
from resnetrt.benchmarks.accuracy.plan import plan
from resnetrt.benchmarks.accuracy.releases import BaselineRun, compare_releases, newcombe
from resnetrt.benchmarks.evaluate.report import explain, explain_baseline
from resnetrt.benchmarks.stats.holm import holm
from resnetrt.benchmarks.stats.noninferiority import drop_fails, drop_passes, drop_score, ratio_score
from resnetrt.errors import BackendMissing, DataError, UsageError

HALF = Budget(max_drop_pp=0.5)
counts = st.tuples(st.integers(0, 400), st.integers(0, 40), st.integers(0, 40), st.integers(1, 400))


def outcomes(predicted, confidence=0.9):
    n = len(predicted)
    flat = np.full(n, float(confidence))
    return Outcomes(np.asarray(predicted, np.int64), np.ones(n, bool), flat, flat + 1, flat * 0, flat)


def compared(n=40, wrong=(), **engines):
    labels = np.arange(n) % 4
    return PairedOutcomes(
        np.arange(n),
        labels,
        np.arange(n, dtype=np.uint64) + 7,
        outcomes(labels),
        {name: outcomes(np.where(np.isin(np.arange(n), bad), 3 - labels, labels)) for name, bad in engines.items()},
        0,
    )


def test_an_engine_equal_to_its_reference_passes():
    row = judge_pairs(Pairs(1800, 0, 0, 2000), HALF)
    assert row.verdict == PASS
    assert row.mcnemar_p == 1
    assert row.more_images is None


@pytest.mark.parametrize("budget", [HALF, Budget(min_relative=0.99)])
def test_ten_images_decide_nothing_and_say_how_many_would(budget):
    row = judge_pairs(Pairs(10, 0, 0, 10), budget)
    assert row.verdict == INCONCLUSIVE
    assert row.more_images > 2000, "ten images leave nearly everything open"


@pytest.mark.parametrize("budget", [HALF, Budget(min_relative=0.99)])
def test_a_large_loss_fails(budget):
    assert judge_pairs(Pairs(1700, 100, 10, 2000), budget).verdict == FAIL


def test_a_drop_near_the_budget_takes_very_many_images():
    near, far = (judge_pairs(Pairs(1800, lost, 0, 2000), HALF).more_images for lost in (10, 5))
    assert near > 100_000 > far


@given(counts)
def test_the_verdict_says_where_the_bounds_lie(cells):
    both, lost, gained, _ = cells
    n = sum(cells)
    row = judge_pairs(Pairs(both, lost, gained, n), Budget(max_drop_pp=2))
    expected = PASS if row.bound_high < 2 else FAIL if row.bound_low > 2 else INCONCLUSIVE
    assert row.verdict == expected
    assert row.bound_low <= 100 * (lost - gained) / n + 1e-9
    assert row.bound_high >= 100 * (lost - gained) / n - 1e-9
    relative = judge_pairs(Pairs(both, lost, gained, n), Budget(min_relative=0.98))
    expected = PASS if relative.bound_low > 0.98 else FAIL if relative.bound_high < 0.98 else INCONCLUSIVE
    assert relative.verdict == expected


@pytest.mark.parametrize(("both", "lost", "gained"), [(150, 12, 3), (800, 5, 9), (30, 1, 0), (90, 0, 4), (50, 0, 0)])
@pytest.mark.parametrize("ratio", [0.9, 0.99, 1.0, 1.05])
def test_the_ratio_score_against_a_numerical_maximum(both, lost, gained, ratio):
    def unlikelihood(g):
        cells = [(gained, g), (both, ratio - (1 + ratio) * g), (lost, 1 - ratio + ratio * g)]
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    bounds = max(0.0, (ratio - 1) / ratio), ratio / (1 + ratio)
    g = minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    shares = (1 - ratio) ** 2 * (ratio - (1 + ratio) * g) + g + ratio**2 * (1 - ratio + ratio * g)
    expected = (both * (1 - ratio) + gained - ratio * lost) / math.sqrt(max(1e-300, (both + lost + gained) * shares))
    score = float(ratio_score(both, lost, gained, ratio))
    assert score == pytest.approx(expected, rel=1e-3, abs=1e-3) or (shares < 1e-9 and score in (0, math.inf))


@pytest.mark.parametrize("n", [50, 300, 1000, 5000])
@pytest.mark.parametrize("budget", [0.002, 0.005, 0.02])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_exact_chance_of_a_false_verdict(n, budget, confidence):
    """Summed over all outcomes near the budget; uncorrected up to 6.0 % pass and 6.1 % fail at 5 %, 1.4 % at 1 %."""
    z = NormalDist().inv_cdf(confidence)
    tests = {
        "pass": lambda *counts: drop_passes(*counts, confidence) <= 0,
        "fail": lambda *counts: drop_fails(*counts, confidence) >= 0,
        "plain pass": lambda *counts: drop_score(*counts) <= -z,
    }
    sizes = {name: [] for name in tests}
    for flips in sorted({budget * k for k in (1.0001, 1.1, 1.6, 3, 8)} | {0.05, 0.2, 0.4}):
        if not budget <= flips <= 0.5:
            continue
        k = np.arange(min(n, int(n * flips + 8 * math.sqrt(n * flips) + 8)) + 1)
        lost = np.arange(k[-1] + 1)[:, None]
        chance = binom.pmf(k, n, flips) * binom.pmf(lost, k, (flips + budget) / (2 * flips))
        for name, test in tests.items():
            sizes[name].append(float((chance * test(lost, np.maximum(k - lost, 0), n, budget) * (lost <= k)).sum()))
    assert max(sizes["pass"]) <= 1 - confidence
    assert max(sizes["fail"]) <= 1 - confidence
    assert max(sizes["pass"]) < max(sizes["plain pass"])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_against_its_definition(p):
    ranked = sorted(p)
    expected = {v: max(min(1.0, (len(p) - j) * ranked[j]) for j in range(ranked.index(v) + 1)) for v in p}
    for value, corrected in zip(p, holm(p), strict=True):
        assert corrected >= expected[value] - 1e-12
        assert corrected >= value


def test_a_class_that_loses_is_found_among_a_hundred():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 20)
    noisy = np.where(rng.random(2000) < 0.02, (labels + 1) % 100, labels)
    bad = np.where(labels == 37, 36, noisy)
    rows = class_drops(outcomes(labels), outcomes(bad), labels, [f"c{i}" for i in range(100)])
    assert [row.name for row in rows if row.loses] == ["c37"]
    assert rows[0].drop_pp == 100


def test_calibration_error_by_hand():
    measured = outcomes([0, 0, 1, 1], 0.9)
    assert calibration_error(measured, np.array([0, 0, 1, 0])) == pytest.approx(0.9 - 0.75)
    assert calibration_error(outcomes([0, 1], 1.0), np.array([0, 1])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected one budget"),
        ({"max_drop_pp": 1, "min_relative": 0.9}, "expected one budget"),
        ({"max_drop_pp": 0}, "--max-drop: expected"),
        ({"min_relative": 1.0}, "--min-relative: expected"),
        ({"max_drop_pp": 1, "confidence": 95}, "--confidence: expected"),
    ],
)
def test_senseless_budgets_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Budget(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Budget(min_relative=0.99), 0.03), "expected --max-drop"),
        ((HALF, 0.0), "--flip-rate"),
        ((HALF, 0.03, 1.0), "--power"),
        ((HALF, 0.03, 0.9, 0.5), "--true-drop: expected less than the budget"),
    ],
)
def test_senseless_plans_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        plan(*arguments)


def test_without_scipy_a_plan_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(BackendMissing, match=r"pip install 'resnetrt\[report\]'"):
        plan(HALF, 0.02)


@pytest.mark.parametrize("share", [0.003, 0.1, 0.5, 0.87])
@pytest.mark.parametrize("n", [1, 7, 400, 20_000])
def test_binomial_tails_are_those_of_scipy(n, share):
    """A device has no scipy; the exact tests are summed by our own code."""
    from scipy import stats

    deviations = np.array([-3, -1, 0, 1, 3, 9]) * (n * share * (1 - share)) ** 0.5
    for count in np.unique(np.clip(np.round(n * share + deviations), 0, n)).astype(int):
        assert gate.gain_p(count, n - count, share) == pytest.approx(stats.binom.sf(count - 1, n, share), rel=1e-9)
        assert gate.mcnemar_p(count, n - count) == pytest.approx(stats.binomtest(count, n, 0.5).pvalue, rel=1e-9)


def test_results_come_back_as_they_were(tmp_path):
    comparison = compared(a=[1, 2], b=[])
    write_results(tmp_path / "r.safetensors", comparison, {"data": "d"})
    back = read_results(tmp_path / "r.safetensors")
    assert back.about == {"data": "d"}
    assert back.comparison.rows() == comparison.rows()
    np.testing.assert_array_equal(back.comparison.images, comparison.images)


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b"", lambda b: b"\xff" * 64, lambda b: b[: len(b) // 2]])
def test_damaged_results_are_refused(tmp_path, spoil):
    path = tmp_path / "r.safetensors"
    write_results(path, compared(a=[]), {})
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match="expected a results file"):
        read_results(path)


def test_a_journal_of_another_run_is_refused(tmp_path):
    FileJournal(tmp_path / "j", {"n": 1})
    with pytest.raises(UsageError, match="found those of another"):
        FileJournal(tmp_path / "j", {"n": 2})


def test_a_journal_of_an_older_format_is_refused(tmp_path):
    journal = FileJournal(tmp_path / "j", {"n": 1})
    written = (tmp_path / "j").read_bytes()
    assert b'"journal_format": 2' in written
    content = json.dumps({"n": 1}).encode()
    (tmp_path / "j").write_bytes(len(content).to_bytes(8, "little") + hashlib.sha256(content).digest()[:16] + content)
    with pytest.raises(UsageError, match="those of another, with other journal_format; remove it"):
        FileJournal(tmp_path / "j", {"n": 1})
    assert journal.finished() == []


def test_a_batch_comes_back_from_the_journal_as_it_was(tmp_path):
    part = BatchOutcomes(np.arange(4, dtype=np.uint64), (outcomes([0, 1, 2, 3]), outcomes([0, 1, 2, 0])), 3)
    FileJournal(tmp_path / "j", {"n": 1}).add(part)
    (stored,) = FileJournal(tmp_path / "j", {"n": 1}).finished()
    assert (stored.images.tolist(), stored.overlap, len(stored.outcomes)) == ([0, 1, 2, 3], 3, 2)
    for before, after in zip(part.outcomes, stored.outcomes, strict=True):
        for name, values in vars(before).items():
            np.testing.assert_array_equal(getattr(after, name), values, strict=True)


def test_releases_pair_by_pixels_whatever_the_order(tmp_path):
    old = compared(a=[])
    write_results(tmp_path / "old.safetensors", old, {})
    new = compared(a=[0, 5, 6, 9])
    order = np.random.default_rng(0).permutation(40)[:30]
    shuffled = PairedOutcomes(
        np.arange(30),
        new.labels[order],
        new.images[order],
        new.reference.at(order),
        {"renamed": new.candidates["a"].at(order)},
        0,
    )
    row = compare_releases(
        shuffled, BaselineRun.read(tmp_path / "old.safetensors"), Budget(max_drop_pp=1), {"renamed": "a"}
    )[0]
    lost = sum(int(i in (0, 5, 6, 9)) for i in order)
    assert (row.paired, row.n, row.lost, row.gained) == (True, 30, lost, 0)


def test_equal_images_pair_once(tmp_path):
    """Also where the old run has more copies of them, in another order."""
    comparison = compared(a=[])
    write_results(tmp_path / "old.safetensors", comparison.at(np.r_[np.arange(40), np.arange(20)][::-1]), {})
    row = compare_releases(comparison, BaselineRun.read(tmp_path / "old.safetensors"), Budget(max_drop_pp=1))[0]
    assert (row.n, row.lost, row.gained) == (40, 0, 0)


@pytest.mark.parametrize(
    ("budget", "top1", "n", "said"),
    [
        (Budget(min_relative=0.9), 100.0, 40, "the drop may be anything from"),
        (Budget(max_drop_pp=2), 100.0, 40, "the drop may be anything from"),
        (Budget(min_relative=0.5), 80.0, 10**6, "95 % sure that the drop is no worse than"),
    ],
)
def test_unpaired_releases_have_bounds_of_the_drop_in_pp(tmp_path, budget, top1, n, said):
    (tmp_path / "old.json").write_text(json.dumps({"engines": [{"engine": "a", "n": n, "top1": top1}]}))
    (row,) = compare_releases(compared(a=[0, 5]), BaselineRun.read(tmp_path / "old.json"), budget)
    share = top1 / 100
    expected = 100 * (1 - budget.min_relative) * share if budget.min_relative else 2
    assert row.limit_pp == pytest.approx(expected)
    why = explain(row, budget)
    assert why.startswith(said)
    assert f"{row.decision.bound_high:.2f} pp" in why
    assert f"the budget of {expected:.4g} pp" in why or f"the budget is {expected:.4g} pp" in why
    assert "would decide" not in why


def test_a_results_file_is_known_by_what_it_holds(tmp_path):
    for name in ("old.json", "old", "old.safetensors"):
        write_results(tmp_path / name, compared(a=[0]), {})
        assert BaselineRun.read(tmp_path / name).stored is not None
    (tmp_path / "old.safetensors").write_text("{}")
    with pytest.raises(DataError):
        BaselineRun.read(tmp_path / "old.safetensors")


def test_releases_that_do_not_pair_are_refused(tmp_path):
    write_results(tmp_path / "old.safetensors", compared(x=[], y=[]), {})
    old = BaselineRun.read(tmp_path / "old.safetensors")
    with pytest.raises(UsageError, match="expected an engine of this run, a; found x, y"):
        compare_releases(compared(a=[]), old, HALF)
    with pytest.raises(UsageError, match="--baseline-engine a=z: expected an engine of the baseline, x, y; found z"):
        compare_releases(compared(a=[]), old, HALF, {"a": "z"})
    (tmp_path / "old.json").write_text("[]")
    with pytest.raises(DataError, match=r"expected a results file \(.safetensors\) or the object of evaluate"):
        BaselineRun.read(tmp_path / "old.json")
    (tmp_path / "old.json").write_bytes(b"\xff" * 9999)
    with pytest.raises(DataError) as refused:
        BaselineRun.read(tmp_path / "old.json")
    assert len(str(refused.value)) < 400, "not the whole file"


def test_a_lone_engine_is_not_compared_with_a_lone_other_one(tmp_path):
    write_results(tmp_path / "old.safetensors", compared(fp32=[]), {})
    with pytest.raises(UsageError, match="expected an engine of this run, mixed; found fp32; if one was only renamed"):
        compare_releases(compared(mixed=[]), BaselineRun.read(tmp_path / "old.safetensors"), HALF)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_engines_of_one_side_only_are_named_and_do_not_pass(tmp_path, suffix):
    then = compared(gone=[], same=[])
    write_results(tmp_path / "old.safetensors", then, {})
    (tmp_path / "old.json").write_text(json.dumps({"engines": then.rows()}))
    old = BaselineRun.read(tmp_path / f"old.{suffix}")
    now = compared(same=[], fresh=[])
    rows = {row.engine: row for row in compare_releases(now, old, Budget(max_drop_pp=50))}
    verdicts = {name: (row.verdict, row.to_json().get("verdict_why", "statistics")) for name, row in rows.items()}
    assert verdicts == {
        "same": (PASS, "statistics"),
        "fresh": (INCONCLUSIVE, "new"),
        "gone": (FAIL, "vanished"),
    }
    assert gate.overall(row.verdict for row in rows.values()) == FAIL
    rows = {row.engine: row for row in compare_releases(now, old, Budget(max_drop_pp=50), whole=False)}
    assert (rows["gone"].verdict, rows["gone"].why) == (None, "not asked for")
    said = explain_baseline(rows["fresh"], HALF)
    assert said.startswith("since the baseline: INCONCLUSIVE: the baseline has no such engine")


def test_newcombe_against_his_table():
    """Newcombe (1998), table II, method 10, first and second contrast."""
    assert newcombe(56 / 70, 70, 48 / 80, 80, 0.975) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(9 / 10, 10, 3 / 10, 10, 0.975) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@pytest.mark.parametrize(
    ("lost", "gained", "expected"),
    [(3, 1, 2 * 5 / 16), (10, 0, 2 / 1024), (0, 0, 1.0), (4, 4, 1.0), (1, 6, 2 * 8 / 128)],
)
def test_mcnemar_by_hand(lost, gained, expected):
    """Two-sided binomial: twice the tail of C(n, k) / 2^n, at most one."""
    assert gate.mcnemar_p(lost, gained) == pytest.approx(expected)


def against_labels(labels, predicted, **engines):
    n = len(labels)
    candidates = {name: outcomes(answers) for name, answers in engines.items()}
    return PairedOutcomes(
        np.arange(n), np.asarray(labels), np.arange(n, dtype=np.uint64), outcomes(predicted), candidates, 0
    )


@pytest.mark.parametrize("top1", [0.04, 0.1, 0.13])
def test_a_reference_no_better_than_a_constant_answer_passes_nothing(top1):
    """Engine and reference say the same of every image, so the drop is zero."""
    labels = np.arange(2000) % 10
    answers = np.where(np.arange(2000) < 2000 * top1, labels, (labels + 3) % 10)
    (row,) = gate_rows(against_labels(labels, answers, a=answers), HALF)
    clear = top1 > 0.12
    assert (row.verdict, row.decision.why) == ((PASS, "statistics") if clear else (INCONCLUSIVE, "data"))
    assert (row.decision.doubt is None) == clear
    if not clear:
        assert "not clearly better" in explain(row, HALF)


def test_a_reference_as_good_as_the_largest_class_passes_nothing():
    labels = (np.arange(1000) >= 900).astype(np.int64)
    answers = np.where(np.arange(1000) % 10 == 0, 1 - labels, labels)  # right on nine in ten
    (row,) = gate_rows(against_labels(labels, answers, a=answers), HALF, ("dog", "cat"))
    assert row.verdict == INCONCLUSIVE
    assert "always saying dog on 90.0 %" in row.decision.doubt


@pytest.mark.parametrize("engine", [3, 5])
def test_images_of_one_class_decide_nothing(engine):
    labels = np.full(500, 3)
    (row,) = gate_rows(against_labels(labels, labels, a=np.full(500, engine)), HALF)
    assert (row.verdict, row.decision.why, row.decision.more_images) == (INCONCLUSIVE, "data", None)
    assert "all 500 images are of one class, 3" in explain(row, HALF)


def test_releases_on_images_of_one_class_are_not_compared(tmp_path):
    comparison = against_labels(np.full(500, 3), np.full(500, 3), a=np.full(500, 3))
    write_results(tmp_path / "old.safetensors", comparison, {})
    (tmp_path / "old.json").write_text(json.dumps({"engines": [{"engine": "a", "n": 10**6, "top1": 100.0}]}))
    for old in ("old.safetensors", "old.json"):
        (row,) = compare_releases(comparison, BaselineRun.read(tmp_path / old), Budget(max_drop_pp=5))
        assert (row.verdict, row.decision.why) == (INCONCLUSIVE, "data")
