"""The study of the regression check's errors: what it plants, and that it reads real runs."""

import json

import numpy as np

from resnetrt.benchmarks.studies.runs import NOISES, main, rows, simulate


def test_rounds_of_one_run_are_wrong_where_runs_are_right():
    """At 3 % slower and offsets of 3 %, of 30 commands 4 may fail by runs (p 0.01 at 5 %); by rounds 12 or more do."""
    before, now = (simulate("offset 3 %", design, 30, 1) for design in ("by rounds", "5 stored"))
    assert before["FAIL at 3"] >= 40
    assert now["FAIL at 3"] <= 100 * 4 / 30
    assert before["least coverage"] < 40
    assert now["least coverage"] > 93 - 5  # of 180 cells, which share half of the offset's variance


def test_all_tables_are_printed_also_of_real_runs(tmp_path, capsys):
    rng = np.random.default_rng(2)
    runs = rows(rng.normal(0, 0.02, (4, 2, 6)))
    named = [[row | {"depth": 18, "disturbed": i == 0} for row in run] for i, run in enumerate(runs)]
    stored = {"results": named[0], "conditions": {}, "runs": [{"results": run} for run in named[1:]]}
    (tmp_path / "bench.json").write_text(json.dumps(stored))
    assert main(["--trials", "2", "--measured", str(tmp_path / "bench.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| in turn |") == len(NOISES)
    assert "4 runs, 1 disturbed; standard deviation from run to run n e0 batch 1 " in printed
    assert "| by rounds, all ordered pairs, 0 % planted | 12 |" in printed
    assert "| by runs, halves of all, 10 % planted | 6 |" in printed
