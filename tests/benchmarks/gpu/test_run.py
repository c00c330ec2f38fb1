"""`make gpu-check`: its checks over host memory, and that a machine without a GPU skips all with a reason."""

import json
from pathlib import Path

import pytest
import tiny_bundle
from host_cuda import HostCuda

from resnetrt.benchmarks.gpu import engines as gpu_engines
from resnetrt.benchmarks.gpu import memory as gpu_memory
from resnetrt.benchmarks.gpu import run as gpu_run
from resnetrt.errors import BackendMissing, CheckFailed
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime.cuda import find_devices


def test_without_a_gpu_everything_is_skipped_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if find_devices()[0]:
        pytest.skip("there is a device")
    assert gpu_run.main([str(tmp_path / "new" / "gpu.json")]) == 0
    record = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert record["schema_version"] == 1
    assert record["conditions"]["gpu"]["devices"] == []
    assert {check["status"] for check in record["checks"]} == {"skipped"}
    assert all(check["reason"] and "\n" not in check["reason"] for check in record["checks"])
    assert record["counts"] == {"passed": 0, "failed": 0, "skipped": len(record["checks"])}
    assert len(record["checks"]) == 6 + 12 + 10
    assert f"0 passed, 0 failed, {len(record['checks'])} skipped" in capsys.readouterr().out


class TestMemory:
    """The same checks that run on a GPU, in host memory."""

    def test_copies(self):
        assert gpu_memory.check_copies(HostCuda(), 10_000)["size_bytes"] == 10_000

    def test_graphs(self):
        assert gpu_memory.check_graph(HostCuda()) == {"replays": 20}

    def test_torch(self):
        pytest.importorskip("torch")
        assert gpu_memory.check_torch(HostCuda())["torch"]

    def test_wrong_bytes_are_found(self, monkeypatch: pytest.MonkeyPatch):
        cuda = HostCuda()
        monkeypatch.setattr(cuda, "copy_out", lambda *_: None)
        with pytest.raises(CheckFailed, match=r"copied to the device and back: .* of 1000 values differ"):
            gpu_memory.check_copies(cuda, 1000)

    def test_a_graph_that_is_not_replayed_is_found(self, monkeypatch: pytest.MonkeyPatch):
        cuda = HostCuda()
        monkeypatch.setattr(cuda, "launch", lambda *_: None)
        with pytest.raises(CheckFailed, match="replayed 1 times"):
            gpu_memory.check_graph(cuda)


def test_an_engine_in_another_precision_fails_its_check(tmp_path: Path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32", "onnxruntime")
    assert gpu_engines.audited(bundle, engine, "fp32")["share_by_precision"] == {"fp32": 1.0}
    with pytest.raises(CheckFailed, match=r"expected at least 95\.0% of the .* in fp16, found fp32 100\.0%"):
        gpu_engines.audited(bundle, engine, "fp16")


@pytest.mark.parametrize(
    ("error", "status"),
    [(BackendMissing("not here"), "skipped"), (ImportError("no torch"), "skipped"), (CheckFailed("wrong"), "failed")],
)
def test_what_is_missing_skips_and_what_is_wrong_fails(error: Exception, status: str):
    def check() -> dict[str, object]:
        raise error

    outcome = gpu_run.run_check("x", check)
    assert outcome.status == status
    assert str(error) in outcome.reason


def test_a_failed_check_exits_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(gpu_run, "all_checks", lambda _: iter([("division", lambda: {"x": 1 // 0})]))
    assert gpu_run.main([str(tmp_path / "gpu.json")]) == 1
