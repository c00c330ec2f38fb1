"""MLPerf LoadGen scenarios against any engine, each in its own process; INVALID is shown with its reason.

Numbers are read from `mlperf_log_detail.txt`. They are not MLPerf scores: "Result not verified by MLCommons
Association".
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.parts import require_parts

# the number that a scenario reports: key in the log, unit, divisor
METRICS = {
    "SingleStream": ("early_stopping_latency_ss", "ms, p90", 1e6),
    "MultiStream": ("early_stopping_latency_ms", "ms for 8 samples, p99", 1e6),
    "Offline": ("result_samples_per_second", "samples/s", 1.0),
    "Server": ("result_completed_samples_per_sec", "queries/s within 15 ms, p99", 1.0),
}
# shown if early stopping had too few queries to give a number
_FALLBACK = {
    "SingleStream": "result_90.00_percentile_latency_ns",
    "MultiStream": "result_99.00_percentile_per_query_latency_ns",
}
_PREFIX = ":::MLLOG "
_GRACE_S = 300


class ScenarioRow(TypedDict):
    """What LoadGen's log says of a scenario; None for a number that the log lacks."""

    scenario: str
    label: str
    result: str
    reason: str
    value: float | None
    unit: str
    early_stopping: bool
    queries: int | None
    target_qps: float | None


class LoadgenRow(ScenarioRow):
    """A scenario of one engine."""

    network: str
    engine: str
    threads: int
    seconds: float


def check_scenarios(scenarios: Sequence[str]) -> None:
    """Raise `UsageError` for an unknown scenario, `BackendMissing` without mlcommons-loadgen."""
    for scenario in scenarios:
        if scenario not in METRICS:
            raise UsageError.unknown("LoadGen scenario", scenario, METRICS)
    require_parts("LoadGen", "mlperf_loadgen")


def run_loadgen(
    bundle: Bundle, engine: str, scenario: str, threads: int, seconds: float, qps: float | None = None
) -> LoadgenRow:
    """One row of `loadgen[]`. `seconds` is LoadGen's minimum duration (600 in the benchmark's rules).

    Raises `EnvironmentFault` with the last line of a failed process.
    """
    with tempfile.TemporaryDirectory(prefix="resnetrt-loadgen-") as folder:
        config = {"bundle": str(bundle.path), "engine": engine, "scenario": scenario, "threads": threads}
        config |= {"seconds": seconds, "qps": qps, "logs": folder}
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "resnetrt.benchmarks.load.loadgen_process", str(path)]
        limit = 20 * seconds + _GRACE_S
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EnvironmentFault(f"LoadGen {scenario} of {engine}: its process ended with {done.returncode}: {last}")
        log = read_log((Path(folder) / "mlperf_log_detail.txt").read_text(errors="replace"))
    return {
        "network": bundle.manifest.name,
        "engine": engine,
        "threads": threads,
        "seconds": seconds,
        **summarise_log(scenario, log),
    }


def read_log(text: str) -> dict[str, Any]:
    """Keys and values of a detail log; the last value of each key counts. Lines that are not records are skipped."""
    values = {}
    for line in text.splitlines():
        if line.startswith(_PREFIX):
            record = json.loads(line.removeprefix(_PREFIX))
            values[record["key"]] = record["value"]
    return values


def summarise_log(scenario: str, log: Mapping[str, Any]) -> ScenarioRow:
    """The log's result for the scenario: VALID, or INVALID with the reason; its number; and early stopping.

    `value` comes from early stopping if that gives one (`early_stopping` true), else it is the raw percentile.
    """
    key, unit, divisor = METRICS[scenario]
    number, early = log.get(key) or None, scenario in _FALLBACK
    if number is None and early:
        number, early = log.get(_FALLBACK[scenario]), False
    reasons = (log.get("result_invalid_reason"), None if log.get("early_stopping_met", True) else _early(log))
    return {
        "scenario": scenario,
        "label": f"LoadGen {scenario} (unverified)",
        "result": log.get("result_validity", "INVALID"),
        "reason": " ".join(text.strip() for text in reasons if text),
        "value": None if number is None else float(number) / divisor,
        "unit": unit,
        "early_stopping": early,
        "queries": log.get("result_query_count"),
        "target_qps": log.get("effective_target_qps") if scenario == "Server" else None,
    }


def _early(log: Mapping[str, Any]) -> str:
    return " ".join(str(log.get("early_stopping_result", "early stopping not met")).replace("*", "").split())
