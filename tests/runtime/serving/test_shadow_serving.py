"""The shadow check in a running server: inputs far outside the calibrated range, on which INT8 does disagree."""

import json
import subprocess
import sys
import time

import bare_http
import numpy as np
import probes
import pytest
import tiny_bundle
from serving_process import WAIT_S, serving

from resnetrt.benchmarks.accuracy.request import GateRequest
from resnetrt.benchmarks.evaluate.run import run_gate
from resnetrt.bundle import Bundle

ENGINE = "onnxruntime-int8-cpu"


def ready_of(server) -> tuple[int, dict]:
    status, _, body = bare_http.request(server.http, "GET", "/v2/health/ready")
    return status, json.loads(body)["models"]["tiny"]


def send_until(server, done) -> None:
    """Send images of contrast a hundred times too high, no two the same, until `done`."""
    rng = np.random.default_rng(0)
    target = probes.Target(server.http, server.grpc)
    try:
        for _ in range(WAIT_S * 20):
            target.http.infer(
                "tiny", [probes.http_input((rng.standard_normal((8, 3, 16, 16)) * 100).astype(np.float32))]
            )
            if done():
                return
            time.sleep(0.02)
    finally:
        target.close()
    raise AssertionError(f"no alarm: {server.scrape()}")


@pytest.mark.parametrize("action", ["warn", "fallback", "unready"])
def test_drift_is_told_and_acted_upon(labelled_bundle, tmp_path, action):
    options = ["--engine", ENGINE, "--threads", "1", "--shadow-rate", "1", "--on-drift", action]
    options += ["--shadow-interval", "0"]
    options += ["--shadow-dir", tmp_path / "alarms"]
    with serving(tmp_path / "log", [labelled_bundle, *options]) as server:
        assert ready_of(server)[1]["drift"] is None
        if action == "fallback":
            send_until(server, lambda: ready_of(server)[1]["engine"] != ENGINE)
        else:
            send_until(server, lambda: ready_of(server)[1]["drift"])
        status, facts = ready_of(server)
        assert status == (503 if action == "unready" else 200)
        if action == "fallback":
            assert facts["engine"] == "onnxruntime-fp32-cpu"
            assert facts["fallbacks"][0].startswith(f"shadow check of engine {ENGINE}")
        else:
            assert server.scrape()[f'resnetrt_shadow_alarm{{engine="{ENGINE}",model="tiny"}}'] == 1
        logits = probes.ask("binary_in_and_out", probes.Target(server.http, server.grpc))
        assert np.argmax(logits, 1).tolist() == [5, 5, 5, 5]  # it answers whatever the action
    assert list((tmp_path / "alarms").iterdir())


def test_a_run_of_the_gate_is_the_baseline_of_its_engine_and_of_no_other(labelled_bundle, tmp_path):
    results = tmp_path / "results.safetensors"
    np.savez(tmp_path / "data.npz", x=tiny_bundle.frames(200, 5), y=np.arange(200) % 10)
    run_gate(Bundle.open(labelled_bundle), GateRequest(str(tmp_path / "data.npz"), (ENGINE,), results=results))
    options = ["--threads", "1", "--shadow-rate", "1", "--shadow-interval", "0", "--no-shadow-copy"]
    options += ["--shadow-baseline", results]
    with serving(tmp_path / "log", [labelled_bundle, *options, "--engine", ENGINE, "--shadow-dir", tmp_path]) as server:
        send_until(server, lambda: ready_of(server)[1]["drift"])
    (alarm,) = tmp_path.glob("alarm-*.json")
    baseline = json.loads(alarm.read_text())["baseline"]
    assert (baseline["n"], baseline["source"]) == (200, f"results {results}")
    other = "onnxruntime-fp32-cpu"
    done = subprocess.run(
        [sys.executable, "-m", "resnetrt.cli", "serve", labelled_bundle, *options, "--engine", other],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert f"shadow baseline: expected outcomes of engine {other} of" in done.stderr


def test_without_drift_nothing_happens(labelled_bundle, tmp_path):
    options = ["--engine", ENGINE, "--threads", "1", "--shadow-rate", "1", "--on-drift", "unready"]
    with serving(tmp_path / "log", [labelled_bundle, *options]) as server:
        target = probes.Target(server.http, server.grpc)
        for _ in range(20):
            target.http.infer("tiny", [probes.http_input()])
        target.close()
        label = f'{{engine="{ENGINE}",model="tiny"}}'
        assert server.scrape()[f"resnetrt_shadow_seen_total{label}"] == 80
        assert ready_of(server)[0] == 200
