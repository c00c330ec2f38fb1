"""The regression check: a planted slowdown is found, a rerun passes, other conditions are refused."""

import json
import math

import numpy as np
import pytest

from resnetrt.benchmarks.lab_plan import LabOptions
from resnetrt.benchmarks.latency import Contender, measure_latency
from resnetrt.benchmarks.latency_regression import (
    check_conditions,
    compare_runs,
    merge_rows,
    parse_percent,
    slowdown,
    slowdown_text,
    verdict_text,
)
from resnetrt.benchmarks.records import read_record
from resnetrt.benchmarks.remeasure import compare_with_more_rounds
from resnetrt.benchmarks.timing import Schedule
from resnetrt.errors import EnvironmentFault, UsageError

IMAGES = np.zeros((1, 1, 2, 2), np.float32)
SCHEDULE = Schedule(rounds=11, block_calls=20, settle_s=0, warm_up_s=0)


class NoisyMachine:
    """A clock whose candidates jitter by 3 % a call, drift by 8 % over the run and hiccup once in fifty calls."""

    def __init__(self, seed, mood=1.0):
        self.now = 0
        self.rng = np.random.default_rng(seed)
        self.mood = mood

    def __call__(self):
        return self.now

    def contender(self, engine, milliseconds):
        def infer(images):
            drift = 1 + 0.08 * math.sin(self.now / 4e9)
            hiccup = 4.0 if self.rng.random() < 0.02 else 1.0
            jitter = 1 + 0.03 * self.rng.standard_normal()
            self.now += max(1, round(milliseconds * 1e6 * self.mood * drift * hiccup * jitter))
            return images

        return Contender(engine, engine.partition("-")[0], engine.rpartition("-")[2], infer, 2)


def run(seed, slower=1.0, mood=1.0, schedule=SCHEDULE):
    """Rows of two batches; `slower` slows one engine down, `mood` the whole machine."""
    machine = NoisyMachine(seed, mood)
    contenders = [
        machine.contender("eager-fp32", 30.0),
        machine.contender("openvino-fp32", 15.0),
        machine.contender("openvino-int8", 4.0 * slower),
    ]
    return measure_latency("resnet50", 50, contenders, IMAGES, (1, 8), schedule, machine)


@pytest.mark.parametrize("seed", range(20))
def test_a_rerun_passes_and_a_planted_slowdown_is_found(seed):
    old = run(1000 + seed)
    rerun = compare_runs(old, run(2000 + seed, mood=1.04), 5.0)
    assert [cell.verdict for cell in rerun.cells if cell.against != "time"] == ["PASS"] * 4
    slow = compare_runs(old, run(3000 + seed, slower=1.10, mood=0.97), 5.0)
    assert slow.verdict == "FAIL"
    failed = [cell for cell in slow.cells if cell.verdict == "FAIL"]
    assert [(cell.engine, cell.batch) for cell in failed] == [("openvino-int8", 1), ("openvino-int8", 8)]
    assert all(cell.ci_percent[0] < 10 < cell.ci_percent[1] + 1 for cell in failed)


@pytest.mark.parametrize("seed", range(20))
def test_a_rerun_on_an_unchanged_machine_passes_as_a_whole(seed):
    assert compare_runs(run(seed), run(100 + seed), 5.0).verdict == "PASS"


def test_a_slowdown_at_the_limit_is_inconclusive_and_more_rounds_are_asked_for():
    few = Schedule(rounds=6, block_calls=3, settle_s=0, warm_up_s=0)
    found = compare_runs(run(1, schedule=few), run(2, slower=1.05, schedule=few), 5.0)
    assert found.verdict == "INCONCLUSIVE"
    assert ("resnet50", 1) in found.unsure


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        old, new = (level * (1 + 0.02 * rng.standard_normal(15)) for level in (1.0, 1.07))
        _, low, high = slowdown(old, new)
        covered += low <= 7 <= high
    assert covered >= 270


def test_a_cell_that_is_gone_fails_and_a_new_one_does_not():
    old = run(1)
    found = compare_runs(old, [row for row in run(2) if row["engine"] != "openvino-int8"], 50.0)
    assert (found.verdict, found.only_old) == (
        "FAIL",
        ("resnet50 openvino-int8 batch 1 threads 2", "resnet50 openvino-int8 batch 8 threads 2"),
    )
    assert compare_runs([row for row in old if row["precision"] == "fp32"], run(2), 50.0).verdict == "PASS"


def test_no_shared_cell_is_refused():
    with pytest.raises(UsageError, match="a cell that both runs measured, found none"):
        compare_runs([row | {"network": "resnet18"} for row in run(1)], run(2), 5.0)


def test_a_baseline_in_one_run_only_is_refused():
    alone = [row for row in run(1) if row["engine"] != "eager-fp32"]
    with pytest.raises(UsageError, match="eager-fp32 was timed in one run only"):
        compare_runs(alone, run(2), 5.0)


def test_merged_rounds_are_appended_where_all_cells_measured_together_have_more():
    """Ratios pair rounds of one group: where a peer was not measured again, nobody's rounds may grow."""
    rows = [
        {"network": "n", "engine": engine, "batch": batch, "threads": 1, "round_medians_ms": [1.0]}
        for batch in (1, 8)
        for engine in "ab"
    ]
    more = [row | {"round_medians_ms": [2.0, 3.0]} for row in rows]
    merged = merge_rows(rows, more[1:])
    assert [row["round_medians_ms"] for row in merged] == [[1.0]] * 2 + [[1.0, 2.0, 3.0]] * 2


def test_a_peer_that_is_lost_when_cells_are_measured_again_ends_in_no_traceback(monkeypatch):
    few = Schedule(rounds=6, block_calls=3, settle_s=0, warm_up_s=0)

    def without_a_peer(subjects, options, groups):
        assert options.peers == "models of peers"
        return [row for row in run(7) if row["engine"] != "openvino-fp32"]

    monkeypatch.setattr("resnetrt.benchmarks.remeasure.measure_groups", without_a_peer)
    record = {"results": run(2, slower=1.05, schedule=few)}
    options = LabOptions(peers="models of peers")
    found = compare_with_more_rounds(run(1, schedule=few), record, [], options, 5.0, lambda _: None)
    assert found.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("old_rounds", "new_rounds", "asks"), [(5, 11, False), (11, 5, True), (11, 11, False)])
def test_few_rounds_decide_nothing(old_rounds, new_rounds, asks):
    """A bootstrap of one round has no width at all, and of five it is no 95 % interval."""
    old, new = (
        [row | {"round_medians_ms": row["round_medians_ms"][:rounds]} for row in run(seed, slower=slower)]
        for seed, slower, rounds in ((1, 1.0, old_rounds), (2, 1.5, new_rounds))
    )
    found = compare_runs(old, new, 5.0)
    few = min(old_rounds, new_rounds) < 6
    assert found.verdict == ("INCONCLUSIVE" if few else "FAIL")
    assert {cell.rounds for cell in found.cells} == {(old_rounds, new_rounds)}
    assert bool(found.unsure) == asks, "more rounds now do not help an earlier run that has few"
    assert all((cell.slowdown_percent is None) == (cell.ci_percent is None) == few for cell in found.cells)
    assert (slowdown_text(found.to_json()["cells"][0]) == ("-", "-")) == few
    said = verdict_text(found.to_json()["cells"][0])
    assert said == (f"INCONCLUSIVE: {old_rounds} rounds then, {new_rounds} now, 6 needed" if few else "PASS")


CONDITIONS = {"cpu": "A", "threads": 2, "versions": {"openvino": "1", "resnetrt": "0.1"}, "revision": "abc"}


def test_other_conditions_are_named_all_of_them():
    new = {"cpu": "B", "threads": 2, "versions": {"torch": "2", "resnetrt": "0.2"}, "revision": "def"}
    expected = "cpu A then, B now; versions.openvino 1 then, nothing now; versions.torch nothing then, 2 now; measure"
    with pytest.raises(UsageError, match=expected):
        check_conditions(CONDITIONS, new)
    check_conditions(CONDITIONS, new, ["cpu", "versions.openvino", "versions.torch"])


def test_what_is_under_test_may_differ():
    check_conditions(CONDITIONS, CONDITIONS | {"revision": "x", "versions": {"openvino": "1", "resnetrt": "9"}})


@pytest.mark.parametrize(("text", "value"), [("5%", 5.0), ("0.5", 0.5), (" 7 %", 7.0), ("0", 0.0)])
def test_a_percentage_is_read(text, value):
    assert parse_percent(text) == value


@pytest.mark.parametrize("text", ["", "fast", "-1%", "nan", "inf"])
def test_no_percentage_is_refused(text):
    with pytest.raises(UsageError, match="expected a percentage such as 5%"):
        parse_percent(text)


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x80" * 999, json.dumps({"results": 1, "conditions": {}})])
def test_a_file_that_is_no_run_is_refused(content, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"old\.json: expected") as refused:
        read_record(path)
    assert "export" not in str(refused.value), "no bundle is meant"
    assert len(str(refused.value)) < 400, "not the whole file"
    with pytest.raises(EnvironmentFault, match="expected the JSON of resnetrt bench, found No such file"):
        read_record(tmp_path / "absent.json")


def test_undecided_cells_get_more_rounds_until_they_are_decided(monkeypatch):
    few = Schedule(rounds=5, block_calls=3, settle_s=0, warm_up_s=0)
    old, asked = run(1), []

    def measure_groups(subjects, options, groups):
        asked.append(set(groups))
        return run(7 + len(asked), slower=1.10, schedule=Schedule(rounds=30, block_calls=20, settle_s=0, warm_up_s=0))

    monkeypatch.setattr("resnetrt.benchmarks.remeasure.measure_groups", measure_groups)
    record = {"results": run(2, slower=1.05, schedule=few)}
    found = compare_with_more_rounds(old, record, [], LabOptions(), 5.0, lambda _: None)
    assert ("resnet50", 1) in asked[0]
    assert len(asked) <= 2
    assert found.verdict == "FAIL"
    assert record["regression"]["verdict"] == "FAIL"
    assert all(len(row["round_medians_ms"]) == 5 for row in record["results"])
