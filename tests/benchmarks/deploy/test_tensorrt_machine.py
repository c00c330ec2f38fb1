"""`deploy` on a machine with full TensorRT and its GPU, which are doubles that compute by ONNX Runtime.

Real are the choice of engines, variants, parity, audit, verdicts, timing by CUDA events' order, tables and the bundle;
no number of these runs says anything about a GPU.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from building_machine import BuildingMachine
from tensorrt_double import LISTS

from resnetrt.bundle import Bundle
from resnetrt.cli import run

pytestmark = pytest.mark.slow
NAMES = [f"tensorrt-{precision}-sm86" for precision in ("fp32", "fp16", "int8")]


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildingMachine:
    (tmp_path / "plans").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    lies = getattr(request, "param", "none does")
    made = BuildingMachine(LISTS[0], tmp_path / "plans", (1, 28, 28), lies)
    made.install(monkeypatch)
    return made


def deploy(machine: BuildingMachine, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any, str]:
    command = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    command += ["--samples", "64", "--eval-samples", "200", "--out", str(out), "--json", *more]
    with machine.cuda.current():  # the first device is the current one without our doing
        code = run(command)
    told = capsys.readouterr()
    assert told.out, told.err
    return code, json.loads(told.out), told.err


def test_every_precision_of_tensorrt_is_built_run_judged_and_timed(
    machine: BuildingMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    timings = tmp_path / "shared.timings"
    code, record, said = deploy(
        machine, tmp_path / "out", capsys, "--for", "tensorrt,onnxruntime", "--timing-cache", str(timings)
    )
    assert code == 0
    assert [name.partition(".")[0] for name in machine.built] == ["fp32", "fp16", "int8"]
    bundle = Bundle.open(record["bundle"])
    assert set(NAMES) <= set(bundle.manifest.engines)
    for name in NAMES:
        engine = bundle.read_engine(name)
        precision = name.split("-")[1]
        assert f"compile   {name}, verified: SQNR " in said
        assert engine.own_share == 1.0
        assert engine.audit.to_json()["share_by_precision"] == {precision: 1.0}
        assert engine.options["timing_cache"] == str(timings)
    judged = {row["engine"]: row for row in record["engines"]}
    timed = {row["engine"]: row for row in record["results"]}
    assert {row["n"] for row in judged.values()} == {200}
    assert all(judged[name]["sqnr_db"] > 15 for name in NAMES)
    assert judged[NAMES[0]]["sqnr_db"] > 80
    assert all(timed[name]["median_ms"] > 0 for name in NAMES)
    assert "not run here" not in said
    assert timings.read_bytes() == b"sm86:a"
    assert list(tmp_path.rglob("*.timings")) == [timings], "the file that was named, not one of the user's too"
    assert machine.cuda.counts["capture"] > 0


@pytest.mark.parametrize("machine", ["int8"], indirect=True)
def test_an_engine_that_computes_in_another_precision_is_refused_and_the_others_stay(
    machine: BuildingMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, record, _ = deploy(machine, tmp_path / "out", capsys, "--for", "tensorrt")
    assert code == 1
    assert [row["engine"] for row in record["engines"]] == NAMES[:2]
    (refused,) = record["refused"]
    assert "at least 50.0% of the multiply-accumulates in int8, found fp32 100.0%" in refused
    assert NAMES[2] not in Bundle.open(record["bundle"]).manifest.engines
    kept = [path.name for path in (tmp_path / ".cache/resnetrt/tensorrt").glob("*.timings")]
    assert kept == [f"{machine.full.module.__version__}-sm86-NVIDIA-A10.timings"]
