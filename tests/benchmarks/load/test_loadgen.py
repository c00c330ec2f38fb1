"""LoadGen: what its log says is passed on as it is, and one real short scenario of each kind."""

import pytest
from tiny_bundle import make_bundle

from resnetrt.benchmarks.load.loadgen import check_scenarios, read_log, run_loadgen, summarise_log
from resnetrt.errors import BackendMissing, EnvironmentFault, UsageError
from resnetrt.export.engines.compile import compile_variant

LOG = """noise
:::MLLOG {"key": "result_validity", "value": "INVALID"}
:::MLLOG {"key": "result_query_count", "value": 190}
:::MLLOG {"key": "early_stopping_met", "value": false}
:::MLLOG {"key": "early_stopping_result", "value": " * Only processed 190 queries.\\n * Need to process at least 662."}
:::MLLOG {"key": "early_stopping_latency_ms", "value": 0}
:::MLLOG {"key": "result_99.00_percentile_per_query_latency_ns", "value": 32750000}
"""


def test_an_invalid_result_is_shown_with_its_reason_and_the_raw_percentile():
    row = summarise_log("MultiStream", read_log(LOG))
    assert (row["result"], row["value"], row["early_stopping"]) == ("INVALID", 32.75, False)
    assert row["reason"] == "Only processed 190 queries. Need to process at least 662."
    assert row["label"] == "LoadGen MultiStream (unverified)"


def test_early_stopping_gives_the_number_where_it_has_one():
    row = summarise_log("SingleStream", {"result_validity": "VALID", "early_stopping_latency_ss": 4_000_000})
    assert (row["result"], row["reason"], row["value"], row["early_stopping"]) == ("VALID", "", 4.0, True)


def test_an_empty_log_is_invalid():
    assert summarise_log("Offline", {}) | {} == summarise_log("Offline", {"result_validity": "INVALID"})


def test_unknown_scenarios_and_a_missing_package_are_one_line(monkeypatch):
    with pytest.raises(UsageError, match="unknown LoadGen scenario 'Singlestream'; did you mean SingleStream"):
        check_scenarios(["Singlestream"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match=r"pip install 'resnetrt\[bench\]'"):
        check_scenarios(["Offline"])


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream", "Offline", "Server"])
def test_a_real_scenario_in_its_own_process(scenario, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    bundle = make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32", "onnxruntime")
    row = run_loadgen(bundle, engine, scenario, 1, 0.2, qps=50.0)
    assert (row["network"], row["engine"], row["scenario"]) == ("tiny", engine, scenario)
    assert row["result"] in {"VALID", "INVALID"}
    assert row["value"] > 0
    assert row["queries"] >= 1


def test_a_process_that_fails_is_an_error_with_its_last_line(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    with pytest.raises(EnvironmentFault, match="LoadGen Offline of absent: its process ended with 1: "):
        run_loadgen(bundle, "absent", "Offline", 1, 0.1)
