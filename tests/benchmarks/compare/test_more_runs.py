"""Runs in processes of their own: what they time, in which order, what is measured again, whom they run against."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from resnetrt.benchmarks.compare.more_runs import (
    Runs,
    check_itself,
    compare_in_turn,
    compare_with_stored,
    other_side,
    this_side,
)
from resnetrt.benchmarks.depth.plan import LabOptions, bundle_subject
from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError

OPTIONS = LabOptions(batches=(1, 2), threads=1, rounds=6, end_to_end=False, memory=False)
FP32 = "onnxruntime-fp32-cpu"


@pytest.fixture
def side(tiny_engine, tmp_path):
    subject = bundle_subject(Bundle.open(Path(tiny_engine)), (), ())
    return this_side([subject], replace(OPTIONS, budget_s=1.0), (), (), tmp_path)


def test_a_run_in_a_process_of_its_own_times_the_groups_that_are_asked_for(side):
    record = side.run({("tiny", 2): 1.0})
    assert [(row["network"], row["engine"], row["batch"]) for row in record["results"]] == [
        ("tiny", "onnx-fp32", 2), ("tiny", FP32, 2)
    ]  # fmt: skip
    assert all(ms > 0 for ms in record["results"][0]["round_medians_ms"])
    assert {"disturbed", "reasons", "others_share"} <= record["noise"][0].keys()
    assert record["conditions"]["threads"] == 1
    changed = replace(side, content={"tiny": side.content["tiny"] | {"fp32.onnx": "0" * 12}})
    with pytest.raises(EnvironmentFault, match="tiny changed while it was measured"):
        changed.check(side.prepare())


def test_a_process_that_fails_says_why(side):
    lost = replace(side, networks={"tiny": replace(side.networks["tiny"], engines=["onnxruntime-fp64-cpu"])})
    with pytest.raises(EnvironmentFault, match=r"a run by .* ended with .*onnxruntime-fp64-cpu"):
        lost.run({("tiny", 1): 0.1})


def test_another_python_times_the_same_bundle(side, tmp_path, monkeypatch):
    """A script that starts Python stands for another environment's; it imports no file of the current folder."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "json.py").write_text("raise ImportError('of the current folder')")
    monkeypatch.chdir(tmp_path)
    assert other_side(python, side).python == other_side(tmp_path, side).python == str(python)
    record = other_side(tmp_path, side).run({("tiny", 1): 0.1})
    assert [row["engine"] for row in record["results"]] == ["onnx-fp32", FP32]
    assert (tmp_path / "called").exists()


def test_a_checkout_from_before_the_rooms_is_refused(side, tmp_path):
    (tmp_path / "old" / "resnetrt" / "benchmarks").mkdir(parents=True)
    for package in ("resnetrt", "resnetrt/benchmarks"):
        (tmp_path / "old" / package / "__init__.py").touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/old exec {sys.executable} -S "$@"\n')  # -S: not this one
    python.chmod(0o755)
    with pytest.raises(UsageError, match=r"found an older one; compare with runs that it stored: --compare OLD.json"):
        other_side(python, side).run({("tiny", 1): 0.1})


def test_another_bundle_is_timed_under_the_name_of_this_one(side, tmp_path, tiny_engine):
    import shutil

    shutil.copytree(tiny_engine, tmp_path / "other.bundle")
    with Bundle.open(tmp_path / "other.bundle").edit() as editor:
        editor.manifest.name = "renamed"
    other = other_side(tmp_path / "other.bundle", side)
    assert other.renamed == {"renamed": "tiny"}
    assert [row["network"] for row in other.run({("tiny", 1): 0.1})["results"]] == ["tiny", "tiny"]
    with pytest.raises(UsageError, match="expected one BUNDLE to compare with it"):
        other_side(tmp_path / "other.bundle", side, made=["tiny"])


def test_what_is_nothing_of_these_is_refused(side, tmp_path):
    with pytest.raises(UsageError, match="expected a bundle, the python of another environment or a checkout"):
        other_side(tmp_path, side)
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(UsageError, match=r"bench.json: expected a Python, found Permission denied"):
        other_side(tmp_path / "bench.json", side).prepare()


class Script:
    """A side whose runs are written down: `slow` times as slow, disturbed where `disturbed` says so."""

    def __init__(self, log, name, slow=1.0, disturbed=()):
        self.options, self.log, self.name, self.slow = OPTIONS, log, name, slow
        self.disturbed, self.count = disturbed, 0

    def run(self, groups):
        self.log.append((self.name, sorted(groups)))
        self.count += 1
        jitter = 1 + 0.001 * (self.count % 3)
        rows = [
            row
            for group in groups
            for row in rows_of(*group, self.slow * jitter, (*group, self.count) in self.disturbed)
        ]
        noise = [
            {"network": name, "batch": batch, "disturbed": (name, batch, self.count) in self.disturbed}
            for name, batch in groups
        ]
        return {"results": rows, "noise": noise}


def rows_of(network, batch, slow=1.0, disturbed=False):
    names = {"network": network, "batch": batch, "threads": 1, "disturbed": disturbed}
    return [
        names | {"engine": engine, "round_medians_ms": [ms + 0.001 * i for i in range(6)]}
        for engine, ms in (("eager-fp32", 3.0), ("e", slow))
    ]


def runs_beside(log, old=None, **options):
    record = {"results": rows_of("n", 1) + rows_of("n", 8), "noise": [], "conditions": {"versions": {"torch": "2"}}}
    return Runs(record, Script(log, "new", **options), old, lambda _: None, record["conditions"])


BOTH = [("n", 1), ("n", 8)]


def test_sides_run_in_turn_and_change_their_order():
    log = []
    runs = runs_beside(log, Script(log, "old"), slow=1.5)
    regression = compare_in_turn(runs, 3, 5.0)
    assert [name for name, _ in log] == ["old", "new", "new", "old", "old", "new"]
    assert (regression.verdict, [cell.runs for cell in regression.cells]) == ("FAIL", [(3, 3)] * 2), (
        "the first had no partner"
    )
    assert len(runs.record["runs"]) == len(runs.record["other_runs"]) == 3


def test_a_disturbed_group_is_measured_again_once():
    log = []
    regression = compare_with_stored(
        [rows_of("n", 1) + rows_of("n", 8)], runs_beside(log, disturbed={("n", 8, 1)}), 3, 5.0
    )
    assert log == [("new", BOTH), ("new", BOTH), ("new", [("n", 8)])]
    assert [(cell.runs, cell.disturbed, cell.verdict) for cell in regression.cells] == [
        ((1, 3), (0, 0), "PASS"), ((1, 3), (0, 1), "PASS")
    ]  # fmt: skip
    log = []
    always = {(*group, count) for group in BOTH for count in range(9)}
    stays = compare_with_stored(
        [rows_of("n", 1) + rows_of("n", 8)], runs_beside(log, slow=9.0, disturbed=always), 3, 5.0
    )
    assert (stays.verdict, len(log)) == ("INCONCLUSIVE", 4), "neither passed nor failed, and not measured for ever"


def test_noise_of_runs_that_are_measured_again_is_kept():
    runs = runs_beside([], disturbed={("n", 8, 1)})
    compare_with_stored([rows_of("n", 1) + rows_of("n", 8)], runs, 2, 5.0)
    assert [block["disturbed"] for run in runs.record["runs"] for block in run["noise"] if block["batch"] == 8] == [
        True, False
    ]  # fmt: skip


def test_undecided_groups_are_looked_at_once_more():
    log = []
    stored = [rows_of("n", 1, 1.0) + rows_of("n", 8, 1.0)]
    runs = runs_beside(log, slow=1.05)
    runs.record["results"] = rows_of("n", 1, 1.0) + rows_of("n", 8, 1.05)
    regression = compare_with_stored(stored, runs, 2, 5.0)
    assert log == [("new", BOTH)] * 3, "one more at first, two more for the second look"
    assert regression.verdict == "INCONCLUSIVE"


def test_a_self_check_compares_every_other_run_and_is_looked_at_once():
    log = []
    regression = check_itself(runs_beside(log), 3, 5.0)
    assert (len(log), regression.verdict, [cell.runs for cell in regression.cells]) == (5, "PASS", [(3, 3)] * 2)
    assert all(5.0 < cell.detectable_percent < 10.0 for cell in regression.cells)
    vague = check_itself(runs_beside(log := []), 3, 0.0)
    assert (len(log), vague.verdict) == (5, "INCONCLUSIVE"), "0 % can't be told, and it says so"


def test_another_torch_is_compared_by_time():
    runs = runs_beside(log := [], Script(log, "old"))
    runs.there = {"versions": {"torch": "1"}}
    runs.say = log.append
    regression = compare_in_turn(runs, 3, 5.0)
    assert {cell.against for cell in regression.cells} == {"time"}
    assert log[0] == "the other side differs: versions.torch 1 then, 2 now"
