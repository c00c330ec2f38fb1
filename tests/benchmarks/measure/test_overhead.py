"""What the runtime adds to the backend's own call."""

import time

import pytest

from resnetrt.benchmarks.measure.overhead import measure_overhead
from resnetrt.runtime.session import Session


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_slower_session_is_seen(backend, monkeypatch):
    infer = Session.infer

    def slow(self, batch):
        until = time.perf_counter_ns() + 2_000_000
        while time.perf_counter_ns() < until:
            pass
        return infer(self, batch)

    monkeypatch.setattr(Session, "infer", slow)
    (row,) = measure_overhead([backend, "tensorrt"], 1)
    assert row["backend"] == backend
    assert row["overhead_us"] > 1000
    assert row["overhead_ci_us"][0] <= row["overhead_us"] <= row["overhead_ci_us"][1]
    assert row["session_us"] > row["bare_us"] > 0


def test_the_bare_call_is_the_sessions_own():
    """Timed another, slower way, the runtime would seem to make calls faster."""
    (row,) = measure_overhead(["openvino"], 1)
    assert row["overhead_ci_us"][1] > 0
