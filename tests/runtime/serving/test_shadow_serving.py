"""The shadow check in a running server: inputs far outside the calibrated range, on which INT8 does disagree."""

import json
import time

import bare_http
import numpy as np
import probes
import pytest
from serving_process import WAIT_S, serving

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
        found = probes.ask("binary_in_and_out", probes.Target(server.http, server.grpc))
        assert np.argmax(found, 1).tolist() == [5, 5, 5, 5]  # it answers whatever the action
    assert list((tmp_path / "alarms").iterdir())


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
