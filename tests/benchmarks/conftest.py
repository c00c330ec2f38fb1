"""What several benchmarks are tested on."""

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_bundle

from resnetrt.export.engines.compile import compile_variant


@pytest.fixture(scope="module")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a tiny bundle with one engine."""
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("engine") / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    return str(bundle.path)


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes with one CPU each beside a head that computes nothing, and this process connected to them."""
    monkeypatch.setenv("RESNETRT_THREADS", "1")
    from resnetrt.benchmarks.cluster.pool import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
