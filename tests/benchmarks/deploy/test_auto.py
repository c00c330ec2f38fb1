"""`deploy --backend auto`: what is tried, which engine is kept, and why the others lost."""

import json

import pytest
from planted_rows import gate_row

from resnetrt.benchmarks.accuracy.gate import Budget, Pairs, judge_pairs
from resnetrt.benchmarks.deploy import auto
from resnetrt.benchmarks.deploy.auto import choice_claim, choose, keep_only, share_among, try_all, verdict
from resnetrt.benchmarks.reports.report import Attempt
from resnetrt.bundle import Bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.cli import run
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime import load


def judged(engine, result, drop=0.0):
    return gate_row(engine, result, drop_pp=drop, drop_ci_pp=(drop - 0.1, drop + 0.1))


def timed(engine, ms):
    return {"engine": engine, "median_ms": ms, "round_medians_ms": [ms * (1 + 0.01 * i) for i in range(6)]}


ATTEMPTS = [
    Attempt("a", "fp32", "a-fp32"),
    Attempt("a", "int8", "a-int8"),
    Attempt("b", "int8", "b-int8"),
    Attempt("b", "bf16", None, "verification", "SQNR 3 dB"),
    Attempt("c", "fp32", None, "not here", "no GPU"),
]
TIMES = [timed("a-fp32", 4.0), timed("a-int8", 1.0), timed("b-int8", 2.0)]


def test_the_fastest_that_passes_is_chosen_and_every_other_says_why():
    attempts = choose(
        ATTEMPTS, [judged("a-fp32", "PASS"), judged("a-int8", "FAIL", 2.5), judged("b-int8", "PASS", 0.2)], TIMES
    )
    by_outcome = {item.outcome: item for item in attempts}
    assert attempts[0] is by_outcome["chosen"]
    assert attempts[0].engine == "b-int8"
    assert by_outcome["slower"].why == "takes 2.00 times as long [2.00, 2.00]"
    assert by_outcome["accuracy"].why == "FAIL: drop 2.50 [2.40, 2.60] pp"
    assert by_outcome["verification"].why == "SQNR 3 dB"
    assert by_outcome["not here"].median_ms is None
    assert verdict(attempts) == "PASS"


@pytest.mark.parametrize(
    ("rounds", "why"),
    [
        ([2.0, 1.9, 2.1, 1.9, 2.1, 2.0], "not told apart: takes 1.00 times as long [0.95, 1.05]"),
        ([1.9, 1.9, 1.9, 1.9, 1.9, 3.0], "not told apart: takes 0.95 times as long [0.95, 1.50]"),
        ([2.2] * 6, "takes 1.10 times as long [1.10, 1.10]"),
        ([2.2], "n = 1: no ratio from fewer than six rounds; deploy again where the machine is quiet"),
    ],
)
def test_an_engine_as_fast_as_the_chosen_is_not_called_slower(rounds, why):
    times = [{"engine": "a-fp32", "median_ms": 2.0, "round_medians_ms": [2.0] * len(rounds)}]
    times += [{"engine": "a-int8", "median_ms": 2.01, "round_medians_ms": rounds}]
    attempts = choose(ATTEMPTS[:2], [judged("a-fp32", "PASS"), judged("a-int8", "PASS")], times)
    assert [(item.engine, item.why) for item in attempts] == [("a-fp32", "the fastest that passes"), ("a-int8", why)]


@pytest.mark.parametrize(("result", "expected"), [("FAIL", "FAIL"), ("INCONCLUSIVE", "INCONCLUSIVE")])
def test_without_a_passing_engine_nothing_is_chosen(result, expected):
    attempts = choose(ATTEMPTS, [judged(name, result) for name in ("a-fp32", "a-int8", "b-int8")], TIMES)
    assert "chosen" not in {item.outcome for item in attempts}
    assert verdict(attempts) == expected


def test_the_engines_to_choose_from_share_the_chance_of_a_false_pass():
    """Ten of which each passes alone with 96 % do not pass; a drop that is clear does."""
    budget, n = Budget(1.0), 1000
    shares = share_among([f"e{i}" for i in range(10)])
    for lost, alone, together in ((3, "PASS", "INCONCLUSIVE"), (0, "PASS", "PASS")):
        assert judge_pairs(Pairs(900, lost, 0, n), budget).verdict == alone
        assert judge_pairs(Pairs(900, lost, 0, n), budget, *shares["e3"]).verdict == together
    assert sum(now.to_pass for now, _ in shares.values()) == pytest.approx(1)
    assert "at most 5.00%, over all 10 engines" in choice_claim(10, budget)


def test_everything_this_machine_has_is_tried(fashion_bundle):
    for dialect in ("cpu", "onnxruntime"):
        quantize_variant(fashion_bundle, dialect, QuantizeOptions())
    attempts = {(item.backend, item.precision): item for item in try_all(fashion_bundle)}
    for backend in ("onnxruntime", "openvino"):
        for precision in ("fp32", "int8"):
            assert attempts[backend, precision].engine in fashion_bundle.manifest.engines
    assert attempts["onnxruntime", "bf16"].outcome == "not here"
    assert attempts["onnxruntime", "bf16"].why == "onnxruntime does not compute in bf16"


def test_a_backend_that_refuses_fp32_is_asked_for_the_other_precisions(fashion_bundle, monkeypatch):
    """As TensorRT-RTX on a T4, which has FP16 kernels only; a backend that is missing is not asked again."""

    def compiled(bundle, variant, backend, *_, **__):
        if backend == "openvino":
            raise BackendMissing("openvino is not installed")
        if variant == "fp32":
            raise UsageError("no FP32 kernels")
        return f"{backend}-{variant}"

    monkeypatch.setattr(auto, "COMPILERS", ("onnxruntime", "openvino"))
    monkeypatch.setattr(auto, "compile_variant", compiled)
    quantize_variant(fashion_bundle, "onnxruntime", QuantizeOptions())
    attempts = {(item.backend, item.precision): item for item in try_all(fashion_bundle)}
    assert attempts["onnxruntime", "fp32"].outcome == "refused"
    assert attempts["onnxruntime", "int8"].engine == "onnxruntime-int8.onnxruntime"
    assert [(key, item.outcome) for key, item in attempts.items() if key[0] == "openvino"] == [
        (("openvino", "fp32"), "not here")
    ]


def test_what_disagrees_with_eager_never_runs_the_race(fashion_bundle, monkeypatch):
    """Its parity is checked at compilation, and it is said."""
    from resnetrt import parity

    table = parity._TOLERANCES | {("openvino", "fp32"): parity.Tolerance("too strict for anything", sqnr_db=500.0)}
    monkeypatch.setattr(parity, "_TOLERANCES", table)
    quantize_variant(fashion_bundle, "cpu", QuantizeOptions())
    attempts = {(item.backend, item.precision): item for item in try_all(fashion_bundle)}
    wrong = attempts["openvino", "fp32"]
    assert (wrong.outcome, wrong.engine) == ("verification", None)
    assert "SQNR" in wrong.why
    assert "openvino-fp32-cpu" not in fashion_bundle.manifest.engines


def test_only_the_chosen_engine_is_left(fashion_bundle):
    quantize_variant(fashion_bundle, "onnxruntime", QuantizeOptions())
    engines = [compile_variant(fashion_bundle, name, "onnxruntime") for name in ("fp32", "int8.onnxruntime")]
    keep_only(fashion_bundle, engines[1])
    opened = Bundle.open(fashion_bundle.path)
    assert list(opened.manifest.engines) == engines[1:]
    assert not any(engines[0] in name for name in opened.manifest.files)
    with load(opened) as session:
        assert session.selftest is not None


@pytest.mark.slow
def test_deploy_keeps_one_engine_and_shows_what_was_tried(tmp_path, capsys):
    command = ["deploy", "fashion_resnet20", "--calib-data", "fashion_calib", "--eval-data", "fashion_test"]
    command += ["--samples", "128", "--backend", "auto", "--max-drop", "2", "--out", str(tmp_path)]
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (kept,) = Bundle.open(record["bundle"]).manifest.engines
    tried = record["tried"]
    assert [item["engine"] for item in tried if item["outcome"] == "chosen"] == [kept] == [tried[0]["engine"]]
    measured = [item for item in tried if item["verdict"] == "PASS"]
    assert len(measured) >= 4
    assert tried[0]["median_ms"] == min(item["median_ms"] for item in measured)
    assert all(item["why"] for item in tried)
    assert "## What was tried" in (tmp_path / "report.md").read_text()
    assert f"over all {len(record['engines'])} engines that were judged" in record["notes"][-1]
    assert run([*command, "--overwrite", "--eval-samples", "20"]) == 3
    table = capsys.readouterr().out
    assert "What was tried" in table
    assert "INCONCLUSIVE" in table
    assert len(Bundle.open(record["bundle"]).manifest.engines) > 1, "nothing was chosen, so all are kept"


def test_a_budget_needs_auto(tmp_path, capsys):
    assert run(["deploy", "m", "--calib-data", "c", "--eval-data", "e", "--out", str(tmp_path), "--max-drop", "1"]) == 2
    assert "--max-drop, --min-relative and --confidence need --backend auto" in capsys.readouterr().err
