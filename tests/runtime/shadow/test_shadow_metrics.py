"""The metrics as a Prometheus server reads them."""

import subprocess
import sys

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.runtime import load
from resnetrt.runtime.shadow import METRIC_NAMES, ShadowCollector, ShadowOptions, start_shadow


def test_every_metric_is_exposed_with_its_labels(bundle: Bundle):
    prometheus = pytest.importorskip("prometheus_client", reason="the extra serve")
    with load(bundle, "onnxruntime-int8-cpu") as session:
        check = start_shadow(bundle, session, ShadowOptions(rate=1.0, interval_s=0.0, scenes=False))
        registry = prometheus.CollectorRegistry()
        registry.register(ShadowCollector(lambda: [("tiny", check)]))
        images = session.prepare(tiny_bundle.frames(4, 9))
        check.offer(images, session.infer(images), session)
        assert check.flush(60)
        labels = {"model": "tiny", "engine": "onnxruntime-int8-cpu"}
        values = {name: registry.get_sample_value(name, labels) for name in METRIC_NAMES}
        check.close()
    assert None not in values.values()
    assert (values["resnetrt_shadow_seen_total"], values["resnetrt_shadow_compared_total"]) == (4, 4)
    assert values["resnetrt_shadow_alarm"] == 0
    assert 0 <= values["resnetrt_shadow_evidence_ratio"] < 1
    assert values["resnetrt_shadow_last_sqnr_db"] > 10


def test_nothing_optional_is_imported_before_a_scrape():
    code = "import sys, resnetrt.runtime.shadow; print('prometheus_client' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
