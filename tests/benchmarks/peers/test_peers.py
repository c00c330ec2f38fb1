"""The comparison of quantizers on the embedded network: ONNX Runtime's and ours; NNCF where it is installed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from resnetrt.benchmarks.peers.__main__ import main
from resnetrt.benchmarks.peers.engines import bake_preprocessing, by_formula, open_file
from resnetrt.benchmarks.peers.isolated import make
from resnetrt.benchmarks.peers.request import DEPTH_TOOLS, PeersRequest, find_weights
from resnetrt.benchmarks.peers.store import ResultStore, Rows
from resnetrt.benchmarks.peers.table import render
from resnetrt.benchmarks.peers.tools import TOOLS, ToolJob
from resnetrt.bundle import Bundle
from resnetrt.errors import DataError, UsageError, WeightsError

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
QUICK = ["--samples", "24", "--eval-samples", "60", "--rounds", "2", "--min-block-s", "0.001", "--repeats", "1"]
NETWORK = ["--networks", "fashion_resnet20", "--threads", "1"]


def run(tmp_path: Path, *words: str) -> ResultStore:
    """One run of the command into `tmp_path/out.json`."""
    assert main([*NETWORK, *QUICK, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json"), *words]) == 0
    return ResultStore(tmp_path / "out.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every step with two tools; its folder."""
    folder = tmp_path_factory.mktemp("peers")
    run(folder, "--tools", "ort-uint8-minmax,resnetrt-cpu", "--more-samples", "40", "--batches", "1")
    return folder


@needs_openvino
def test_every_step_has_a_row_for_every_engine(whole: Path):
    results = ResultStore(whole / "out.json")
    engines = {(row["tool"], row["backend"]) for row in results.rows("fidelity")}
    assert engines == {
        *(("ort-uint8-minmax", name) for name in TOOLS["ort-uint8-minmax"].backends),
        *(("resnetrt-cpu", name) for name in TOOLS["resnetrt-cpu"].backends),
    }
    timed = {(row["tool"], row["backend"]) for row in results.rows("latency")}
    assert timed == engines | {("fp32", "openvino"), ("fp32", "onnxruntime")}
    assert {row["tool"] for row in results.rows("frames")} == {"ort-uint8-minmax", "resnetrt-cpu"}
    made = {(row["tool"], row["samples"]) for row in results.rows("calibration")}
    assert made == {("ort-uint8-minmax", 24), ("resnetrt-cpu", 24), ("resnetrt-cpu", 40)}
    assert [line for group in results.groups.values() for line in group["left_out"]] == []


@needs_openvino
def test_rows_are_plausible_and_carry_their_conditions(whole: Path):
    results = ResultStore(whole / "out.json")
    for row in results.rows("fidelity"):
        assert row["sqnr_db"] > 10
        assert row["n"] == 60
        assert row["drop_ci_pp"][0] <= row["drop_pp"] <= row["drop_ci_pp"][1]
    for row in results.rows("calibration"):
        assert row["calibration_s"] > 0
        assert row["peak_rss_bytes"] >= row["imports_rss_bytes"] > 1e7
    for group in results.groups.values():
        assert {"cpu", "versions", "threads", "peers"} <= set(group["conditions"])


@needs_openvino
def test_a_finished_step_is_kept(whole: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--tools", "ort-uint8-minmax,resnetrt-cpu", "--more-samples", "40")
    run(whole, *words, "--batches", "1")  # two steps tool by tool, two with both
    assert capsys.readouterr().err.count("kept from an earlier run") == 6


def test_another_recipe_is_measured_anew_and_other_groups_stay(tmp_path: Path):
    results = ResultStore(tmp_path / "out.json")
    runs: list[str] = []

    def measured(step: str, **arguments: int) -> bool:
        def action() -> tuple[Rows, list[str]]:
            runs.append(step)
            return [{"n": len(runs)}], []

        return results.group(step, "net", arguments, action)

    assert [measured("a", x=1), measured("b", x=1), measured("a", x=1), measured("a", x=2)] == [True, True, False, True]
    assert ResultStore(results.path).groups == results.groups
    assert [results.rows(step) for step in "ab"] == [[{"n": 3}], [{"n": 2}]]
    again = ResultStore(results.path, again=True)
    assert again.group("b", "net", {"x": 1}, lambda: ([], ["nothing"]))
    assert json.loads(results.path.read_text())["groups"][1]["left_out"] == ["nothing"]


@needs_openvino
def test_the_table_shows_every_engine_once(whole: Path):
    text = render(ResultStore(whole / "out.json"))
    assert text.splitlines()[0].startswith("| network | tool | dialect | engine | SQNR dB | flips % | drop pp |")
    main_table = text.split("\n\n")[0]
    assert main_table.count("| ort-uint8-minmax |") == 2
    assert "Left out" not in text


def test_our_uint8_model_takes_frames(fashion_bundle: Bundle, tmp_path: Path):
    job = ToolJob(fashion_bundle, "fashion_calib", 24, tmp_path / "model")
    model = TOOLS["resnetrt-onnxruntime-uint8"].quantize(job)
    with open_file(model, "onnxruntime", 1, fashion_bundle.manifest.preprocessing) as session:
        assert session.inputs[0].dtype == "uint8"


def test_the_formula_says_what_normalize_says(fashion_bundle: Bundle):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 1)).astype(np.uint8)
    preprocessing = fashion_bundle.manifest.preprocessing
    prepared = by_formula(pixels, preprocessing)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared, preprocessing.normalize(pixels), rtol=1e-6, atol=1e-6)


@needs_openvino
def test_baked_preprocessing_says_what_numpy_says(fashion_bundle: Bundle, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    preprocessing = fashion_bundle.manifest.preprocessing
    model = tmp_path / "fp32.onnx"
    model.write_bytes(fashion_bundle.variant_file("fp32").read_bytes())
    logits = []
    for path in (model, bake_preprocessing(model, preprocessing)):
        with open_file(path, "openvino", 1, preprocessing, "fp32") as session:
            logits.append(next(iter(session.infer_frames(pixels).values())))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_symmetric_peers_have_zero_zero_points(fashion_bundle: Bundle, tmp_path: Path):
    import onnx
    from onnx import numpy_helper

    job = ToolJob(fashion_bundle, "fashion_calib", 24, tmp_path / "model")
    model = onnx.load(TOOLS["ort-int8-minmax"].quantize(job))
    points = [numpy_helper.to_array(item) for item in model.graph.initializer if item.name.endswith("_zero_point")]
    assert len(points) > 20
    assert not any(point.any() for point in points)


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is not installed (extra peers)")
@pytest.mark.slow
def test_nncf_is_the_reference_of_ratios(tmp_path: Path):
    results = run(
        tmp_path, "--tools", "nncf-mixed,resnetrt-cpu", "--batches", "1", "--steps", "fidelity,latency,frames"
    )
    ratios = {row["tool"]: row["ratio"] for row in results.rows("latency") if row["backend"] == "openvino"}
    assert ratios["nncf-mixed"] == 1
    assert ratios["resnetrt-cpu"] > 0
    kinds = {(row["tool"], row["preprocessing"]) for row in results.rows("frames")}
    how = {"numpy", "numpy, normalize"}
    assert kinds == {(tool, name) for tool in ("nncf-mixed", "resnetrt-cpu") for name in how} | {
        ("nncf-mixed", "PrePostProcessor")
    }


def test_a_relative_folder_is_one(fashion_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The process runs in the folder, where a relative name would mean another place."""
    monkeypatch.chdir(tmp_path)
    made = make(TOOLS["ort-uint8-minmax"], fashion_bundle, "fashion_calib", 4, Path("work"))
    assert made.path.is_relative_to(tmp_path / "work")
    assert made.path.is_file()


def test_a_tool_that_is_not_installed_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("resnetrt.benchmarks.peers.tools.importlib.util.find_spec", lambda name: None)
    results = run(tmp_path, "--tools", "nncf-mixed", "--steps", "calibration")
    assert results.rows("calibration") == []
    assert "nncf is not installed; run: pip install 'resnetrt[peers]'" in render(results)


def test_bad_requests_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="unknown step 'fidelty'; did you mean fidelity"):
        PeersRequest(steps=("fidelty",))
    with pytest.raises(UsageError, match="unknown tool 'ncf'"):
        PeersRequest(tools=("ncf",))
    with pytest.raises(WeightsError, match=r"expected one file \*resnet20.safetensors"):
        find_weights(tmp_path, "cifar_resnet20")
    assert main(["--out", str(tmp_path / "x.json")]) == 2


def test_results_of_something_else_are_refused(tmp_path: Path):
    (tmp_path / "x.json").write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match="expected results of an earlier run, found schema_version 99"):
        ResultStore(tmp_path / "x.json")


def test_depth_tools_are_known():
    assert set(DEPTH_TOOLS) <= set(TOOLS)
