"""`resnetrt bench`: exit codes, refusals and files; what is measured is tested in tests/benchmarks."""

import json
from pathlib import Path

import pytest
from tiny_bundle import make_bundle

from resnetrt.cli import run
from resnetrt.export.engines.compile import compile_variant

PEAKS = {"best": {"fp32": 100.0}, "copy_gb_s": 20.0, "matmul": []}
ENOUGH = ["--budget", "1"]  # for the six rounds that a verdict needs, also on a machine that is busy


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_peaks", lambda *_: PEAKS)
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_overhead", lambda *_: [])
    bundle = make_bundle(tmp_path / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    return bundle.path


@pytest.fixture
def quiet(monkeypatch):
    """Whatever else this machine does: no run counts as disturbed, in this process or another."""
    from resnetrt.benchmarks.compare.more_runs import Side

    call = Side._call

    def undisturbed(self, *arguments, **named):
        record = call(self, *arguments, **named)
        return record | {
            name: [row | {"disturbed": False} for row in record[name]]
            for name in ("results", "noise")
            if name in record
        }

    monkeypatch.setattr(Side, "_call", undisturbed)
    monkeypatch.setattr("resnetrt.benchmarks.measure.noise.Noise.disturbed", False)


def bench(path: Path, *more: str) -> int:
    quick = ["--batches", "1", "--threads", "1", "--rounds", "6", "--budget", "0.02", "--only-latency"]
    return run(["bench", str(path), *quick, *more])


def test_json_has_the_designs_names_and_files_are_written(tiny, tmp_path, capsys):
    assert bench(tiny, "--json", "--out", str(tmp_path / "out")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"schema_version", "conditions", "models", "results", "peaks", "noise", "left_out"} <= printed.keys()
    assert [row["engine"] for row in printed["results"]] == ["onnx-fp32", "onnxruntime-fp32-cpu"]
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["results"] == printed["results"]
    assert (tmp_path / "out" / "bench.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("factor", "code", "verdict"), [(10.0, 0, "PASS"), (0.1, 1, "FAIL")])
def test_compare_sets_the_exit_code(factor, code, verdict, tiny, tmp_path, capsys, quiet):
    assert bench(tiny, "--out", str(tmp_path), "--runs", "2", *ENOUGH) == 0
    old = json.loads((tmp_path / "bench.json").read_text())
    assert len(old["runs"]) == 1, "a file of two runs"
    for row in (*old["results"], *old["runs"][0]["results"]):
        if row["engine"] != "onnx-fp32":  # the baseline
            row["round_medians_ms"] = [factor * ms for ms in row["round_medians_ms"]]
    (tmp_path / "old.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert bench(tiny, "--compare", str(tmp_path / "old.json"), "--runs", "2", "--out", str(tmp_path), *ENOUGH) == code
    printed = " ".join(capsys.readouterr().out.split())  # the title may take two lines
    assert f"Against the earlier run {tmp_path / 'old.json'}: {verdict}" in printed
    assert verdict in (tmp_path / "bench.html").read_text()


def test_one_run_a_side_is_inconclusive(tiny, tmp_path, capsys):
    """Without a second run nothing says what two runs of the same thing differ by; it failed half of the time."""
    assert bench(tiny, "--out", str(tmp_path), *ENOUGH) == 0
    assert bench(tiny, "--compare", str(tmp_path / "bench.json"), "--runs", "1", *ENOUGH) == 3
    assert "INCONCLUSIVE" in capsys.readouterr().out


@pytest.mark.slow  # eight processes
def test_against_the_same_bundle_in_turn_and_against_itself(tiny, tmp_path, capsys, quiet):
    limit = ["--max-slowdown", "1000%", "--runs", "2", *ENOUGH]
    assert bench(tiny, "--against", str(tiny), "--json", *limit) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["regression"]["cells"][0]["runs"] == [2, 2]
    assert record["regression"]["compared"] == f"{tiny}, in turn"
    assert len(record["runs"]) == len(record["other_runs"]) == 2
    assert bench(tiny, "--self-check", *limit) == 0
    assert "Against itself, every other run: PASS" in capsys.readouterr().out


def test_cells_of_one_run_only_are_named(tiny, tmp_path, capsys):  # one run a side is enough for that
    assert bench(tiny, "--out", str(tmp_path), *ENOUGH) == 0
    old = json.loads((tmp_path / "bench.json").read_text())
    row = old["results"][0]
    row["round_medians_ms"] = [10 * ms for ms in row["round_medians_ms"]]
    old["results"].append(row | {"engine": "a-lost-engine"})
    (tmp_path / "old.json").write_text(json.dumps(old))
    capsys.readouterr()
    compare = ["--batches", "1,2", "--budget", "0.04", "--runs", "1", "--compare", str(tmp_path / "old.json")]
    assert bench(tiny, "--out", str(tmp_path), *compare) == 1
    for text in (capsys.readouterr().out, (tmp_path / "bench.html").read_text()):
        assert "gone, which fails: tiny a-lost-engine batch 1 threads 1" in text
        assert "new: tiny onnxruntime-fp32-cpu batch 2 threads 1" in text


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("when", ["loadgen", "compare"])
def test_what_is_measured_survives_an_interrupt_of_what_follows(when, as_json, tiny, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    out, more = tmp_path / "out", ["--json"] * as_json
    if when == "loadgen":
        monkeypatch.setattr("resnetrt.benchmarks.compare.bench.check_scenarios", lambda _: None)
        monkeypatch.setattr("resnetrt.benchmarks.compare.bench.run_loadgen", interrupted)
        more += ["--loadgen", "Offline"]
    else:
        assert bench(tiny, "--out", str(tmp_path), *ENOUGH) == 0
        monkeypatch.setattr("resnetrt.benchmarks.compare.more_runs.Side.run", interrupted)
        more += ["--compare", str(tmp_path / "bench.json"), *ENOUGH]
        capsys.readouterr()
    assert bench(tiny, "--out", str(out), *more) == 130
    printed = capsys.readouterr().out
    record = json.loads((out / "bench.json").read_text())
    assert record["complete"]
    assert record["left_out"][-1] == "the rest of LoadGen and of further runs: interrupted"
    assert (
        json.loads(printed) == record if as_json else "the rest of LoadGen and of further runs: interrupted" in printed
    )


def test_the_layers_of_an_engine_that_is_not_here_are_refused_first(tiny, capsys, monkeypatch):
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_peaks", lambda *_: pytest.fail("it is measured first"))
    assert bench(tiny, "--profile", "onnxruntime-fp23-cpu") == 2
    assert "unknown engine of --profile 'onnxruntime-fp23-cpu'; did you mean" in capsys.readouterr().err


def test_an_interrupted_run_is_written_marked_and_not_compared_with(tiny, tmp_path, capsys, monkeypatch):
    from resnetrt.benchmarks.depth import lab

    measure = lab.measure_latency

    def interrupted(*arguments):
        if arguments[4] == (2,):
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(lab, "measure_latency", interrupted)
    assert bench(tiny, "--out", str(tmp_path / "out"), "--batches", "1,2") == 130
    table = capsys.readouterr().out
    assert "onnxruntime-fp32-cpu" in table
    assert "INTERRUPTED" in table
    assert "INTERRUPTED" in (tmp_path / "out" / "bench.html").read_text()
    stored = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert (stored["complete"], [row["batch"] for row in stored["results"]]) == (False, [1, 1])
    assert bench(tiny, "--compare", str(tmp_path / "out" / "bench.json")) == 2
    assert "found one that was interrupted" in capsys.readouterr().err
    monkeypatch.setattr(lab, "measure_latency", measure)
    again = ["--out", str(tmp_path / "out"), "--resume", str(tmp_path / "out" / "bench.json"), "--batches"]
    assert bench(tiny, *again, "1,2,4") == 2
    assert "batches [1, 2] then, [1, 2, 4] now" in capsys.readouterr().err
    assert bench(tiny, *again, "1,2") == 0
    finished = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert (finished["complete"], [row["batch"] for row in finished["results"]]) == (True, [1, 1, 2, 2])
    assert finished["results"][0]["round_medians_ms"] == stored["results"][0]["round_medians_ms"]
    monkeypatch.setattr("resnetrt.benchmarks.compare.bench._subjects", lambda *_: pytest.fail("a bundle is made first"))
    assert bench(tiny, *again, "1,2") == 2
    assert "expected an interrupted run, found a finished one" in capsys.readouterr().err


def test_other_conditions_are_refused_before_anything_is_measured(tiny, tmp_path, capsys):
    (tmp_path / "old.json").write_text(json.dumps({"results": [], "conditions": {"cpu": "another"}}))
    assert bench(tiny, "--compare", str(tmp_path / "old.json")) == 2
    assert "cpu another then, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench"], "expected BUNDLEs or --depths, found neither"),
        (["bench", "--depths", "19"], "--depths: expected some of 18, 34, 50, 101, 152, found 19"),
        (["bench", "--depths", "18", "--backends", "openvion"], "did you mean openvino"),
        (["bench", "--depths", "18", "--cpus", "x"], "--cpus x: expected cores among"),
        (["bench", "--depths", "18", "--max-slowdown", "much"], "expected a percentage"),
        (["bench", "--depths", "18", "--precisions", "fp32,int7"], "unknown precision 'int7'; did you mean int8"),
        (["bench", "--depths", "18", "--budget", "nan"], "--budget: expected a finite number, found nan"),
        (["bench", "--depths", "18", "--server-qps", "inf"], "--server-qps: expected a finite number, found inf"),
        (["bench", "--depths", "18", "--accept", "cpu"], "--accept: expected a run to compare with, found none"),
        (["bench", "--depths", "18", "--self-check", "--against", "x"], "one of --compare, --against and --self-check"),
        (["bench", "--depths", "18", "--against", "nowhere"], "--against nowhere: expected a bundle, the python"),
        (["bench", "--depths", "18", "--loadgen", "Multi"], "unknown LoadGen scenario 'Multi'"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, capsys):
    assert run(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()  # and no bundle was made before it
    assert message in line
