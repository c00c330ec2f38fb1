"""Networks nobody wrote: the guard itself sees planted faults, shrinks them, and finds none in the product."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnetrt.benchmarks.studies.network_fuzz import judge as judging
from resnetrt.benchmarks.studies.network_fuzz.__main__ import main
from resnetrt.benchmarks.studies.network_fuzz.build import Unbuildable, build_network, images_of, normalized
from resnetrt.benchmarks.studies.network_fuzz.campaign import RESULTS, CampaignRequest, run_campaign
from resnetrt.benchmarks.studies.network_fuzz.grammar import draw_network
from resnetrt.benchmarks.studies.network_fuzz.judge import judge, relative_error, typical_error
from resnetrt.benchmarks.studies.network_fuzz.mixers import TRAPS
from resnetrt.benchmarks.studies.network_fuzz.shrink import shrink
from resnetrt.benchmarks.studies.network_fuzz.spec import NetworkSpec
from resnetrt.benchmarks.studies.network_fuzz.verdict import FAILURES, NetworkVerdict, Stopped
from resnetrt.benchmarks.studies.network_fuzz.workers import WorkerProcess
from resnetrt.errors import CheckFailed
from resnetrt.runtime.session import Session

CONV = {"op": "conv", "out": 8, "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}
SMALL = NetworkSpec(5, (CONV, {"op": "norm"}, {"op": "act"}))


def test_a_spec_survives_json_and_builds_the_same_network():
    spec = draw_network(11)
    again = NetworkSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec == draw_network(11)
    images = normalized(spec, images_of(spec, 4, 0)).float()
    assert (build_network(spec)(images.clone()) == build_network(again)(images.clone())).all()


@pytest.mark.slow
def test_the_grammar_draws_different_networks_that_use_most_of_it():
    specs = [draw_network(seed) for seed in range(40)]
    assert len({spec.listing() for spec in specs}) == len(specs)
    text = "".join(spec.listing() for spec in specs)
    for name in ("conv(", "norm(", "act(", "pool(", "residual(", "branches(", "reshape(", "cut(", "pad("):
        assert f"x = {name}" in text
    assert {spec.mode for spec in specs} == {"RGB", "L"}


def test_a_spec_that_is_no_network_is_told_apart():
    with pytest.raises(Unbuildable, match="cut on"):
        build_network(NetworkSpec(0, ({"op": "cut", "start": 99},)))
    with pytest.raises(Unbuildable, match="hardly depend on the image"):
        build_network(NetworkSpec(0, ({"op": "arithmetic", "kind": "times"}, {"op": "norm", "kind": "instance"})))


def test_one_bad_image_of_many_is_seen():
    reference = np.ones((100, 4))
    output = reference.copy()
    output[7] += 0.1
    assert relative_error(reference, output) == pytest.approx(0.025)
    output[7] = np.nan
    assert relative_error(reference, output) == float("inf")
    assert relative_error(reference, reference[:50]) == float("inf")


def test_few_images_beyond_the_calibrated_range_condemn_no_file():
    reference = np.ones((12, 4))
    output = reference.copy()
    output[[2, 7, 9]] *= 0.1
    assert typical_error(reference, output) == 0
    output[3] *= 0.1
    assert typical_error(reference, output) > 0.2
    output[3] = np.nan
    assert typical_error(reference, output) == float("inf")


@pytest.mark.parametrize("kind", TRAPS)
def test_the_judge_knows_a_network_that_is_no_function_of_one_image(kind: str):
    spec = NetworkSpec(5, (CONV, {"op": "trap", "kind": kind}))
    assert not judging._eager(spec, images_of(spec, 6, 1))[2]
    assert judging._eager(SMALL, images_of(SMALL, 6, 1))[2]


def test_a_sound_network_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESNETRT_THREADS", "1")
    stages: list[str] = []
    verdict = judge(NetworkSpec(5, SMALL.layers, head={"kind": "flatten"}), tmp_path, stages.append)
    assert verdict.end == "right", verdict.findings
    assert {"export", "calibrate", "quantize cpu", "compile openvino int8", "verify"} <= set(stages)
    assert verdict.numbers["onnxruntime-fp32-cpu alone"] < 1e-5
    assert 1e-4 < verdict.numbers["onnxruntime-int8-cpu batch"] < 0.2


def test_an_engine_that_computes_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every other image of a batch is 1 % off, and nothing the product checks shows it."""
    whole = Session.infer_frames

    def infer_frames(session: Session, frames: Any) -> Any:
        outputs = whole(session, frames)
        if len(frames) == judging.FRESH[1]:
            outputs = {
                name: array * (1 + 0.01 * (np.arange(len(array)) % 2)[:, None]) for name, array in outputs.items()
            }
        return outputs

    monkeypatch.setattr(Session, "infer_frames", infer_frames)
    verdict = judge(SMALL, tmp_path, focus="run onnxruntime fp32")
    assert [(failure.kind, failure.stage) for failure in verdict.failures] == [("wrong", "run onnxruntime fp32")]
    assert verdict.failures[0].what.startswith("batch: 7.")


@pytest.mark.parametrize(
    ("precision", "error", "drift", "own", "right"),
    [
        ("fp32", 9e-5, 0.0, 0.0, True),
        ("fp32", 2e-4, 0.0, 2e-4, False),  # the file is wrong
        ("fp32", 2e-4, 2e-4, 1e-7, True),
        ("fp32", 5e-4, 5e-4, 1e-7, False),
        ("int8", 0.10, 0.04, 0.09, True),
        ("int8", 0.20, 0.19, 0.01, False),  # near enough for 12 dB, and not what its file computes
        ("int8", 0.07, 0.06, 0.06, True),  # rounds elsewhere, and is no farther from eager
        ("int8", 0.09, 0.06, 0.06, False),
    ],
)
def test_what_an_engine_may_be_off(precision: str, error: float, drift: float, own: float, right: bool):
    assert (judging._complaint(precision, error, drift, own, noise=1e-7) == "") == right


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CheckFailed("engine x: expected 3 axes, found 4; use another head"), "refused"),
        (CheckFailed("unexpected KeyError; please report that"), "unclear"),
        (CheckFailed("Check failed at src/core/node.cpp:12"), "unclear"),
        (KeyError("pads"), "crash"),
    ],
)
def test_only_a_clear_refusal_is_a_good_end(error: Exception, kind: str):
    verdict = NetworkVerdict()
    with pytest.raises(Stopped), verdict.step("export"):
        raise error
    assert verdict.end == kind
    assert (kind in FAILURES) == bool(verdict.failures)
    assert NetworkVerdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_names_and_numbers_make_no_class_of_their_own():
    labels = set()
    for node, size in (("layers.0.conv", 3), ("stem.2.pool_7", 41)):
        verdict = NetworkVerdict()
        verdict.add("refused", "export", f"CheckFailed: node {node} of {size} channels")
        labels.add(verdict.findings[0].label)
    assert labels == {"refused: export: CheckFailed: node * of * channels"}


def test_a_failure_is_shrunk_to_what_causes_it():
    block = {"op": "residual", "join": "add", "body": [{"op": "conv", "out": 3}, {"op": "act", "kind": "mish"}]}
    spec = NetworkSpec(
        3, (CONV, {"op": "norm"}, block, {"op": "pool", "ceil": True}), "L", (32, 24), {"kind": "max"}, "flat"
    )

    def fails(candidate: NetworkSpec) -> bool:
        return "mish" in candidate.listing()

    assert shrink(spec, fails) == NetworkSpec(3, ({"op": "act", "kind": "mish"},), size=(8, 8))
    assert shrink(spec, fails, most_trials=0) == spec


def test_a_process_that_dies_or_hangs_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The worker's network kills its process; one without time is ended."""
    worker = WorkerProcess(limit_s=600, log=tmp_path / "log")
    try:
        pid = worker.pid
        os.kill(pid, 11)
        spec, verdict = worker.judge(SMALL)
        assert verdict is not None
        assert spec == SMALL
        assert verdict.end == "crash"
        assert "SIGSEGV" in verdict.failures[0].what
        monkeypatch.setattr(worker, "_limit_s", 0.0)
        verdict = worker.judge(SMALL)[1]
        assert verdict is not None
        assert "no end after 0 s" in verdict.failures[0].what
    finally:
        worker.close()


def test_a_run_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    request = CampaignRequest(networks=1, seed=7, out=tmp_path, workers=1, shrunk=0)
    first = run_campaign(request)
    assert len(first.verdicts) == 1
    before = (tmp_path / RESULTS).read_text()
    assert run_campaign(request).verdicts == first.verdicts
    assert (tmp_path / RESULTS).read_text() == before
    main(["--networks", "1", "--seed", "7", "--out", str(tmp_path), "--shrink", "0", "--json"])
    assert json.loads(capsys.readouterr().out)["networks"] == 1
    (tmp_path / RESULTS).write_text(before + "{")
    assert main(["--networks", "1", "--seed", "7", "--out", str(tmp_path)]) == 4
    assert "line 2" in capsys.readouterr().err


def test_no_time_no_network(tmp_path: Path):
    assert run_campaign(CampaignRequest(networks=5, seed=7, out=tmp_path, budget_s=0.0)).verdicts == {}
