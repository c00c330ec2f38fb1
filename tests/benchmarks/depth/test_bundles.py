"""The depth lab's bundles: engines are made once, for the backends that can run here."""

import importlib.util
from pathlib import Path
from typing import Any

import onnxruntime_gpu_double
import pytest
from tiny_bundle import make_bundle

from resnetrt.benchmarks.compare.bench import LAB_PRECISIONS, lab_precisions
from resnetrt.benchmarks.depth import bundles
from resnetrt.benchmarks.depth.lab import run_lab
from resnetrt.benchmarks.depth.plan import LabOptions
from resnetrt.benchmarks.verify.prepare import recipe_hash
from resnetrt.bundle import Bundle
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines import here
from resnetrt.runtime.backends import onnxruntime
from resnetrt.runtime.cuda import Device, find_devices

RTX = "tensorrt_rtx"
needs_rtx = pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="TensorRT-RTX is not installed")


class Unhindered:
    """A compiler whose engines can run here, so it is said."""

    def __init__(self, backend: str) -> None:
        self._compiler = find_compiler(backend)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiler, name)

    @staticmethod
    def obstacle(_target: str) -> str:
        return ""


@pytest.fixture
def network(tmp_path: Path) -> str:
    """The name of a network whose bundle is in the lab's folder already."""
    make_bundle(tmp_path / f"tiny-{recipe_hash()}.bundle")
    return "tiny"


@needs_rtx
def test_engines_of_another_target_than_the_cpu_are_found_again(
    tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bundles, "find_compiler", Unhindered)
    lines: list[str] = []
    first = bundles.lab_bundle(network, ["fp32"], [RTX], tmp_path, lines.append)
    assert lines == ["compile tiny tensorrt_rtx-fp32-portable"]
    again = bundles.lab_bundle(network, ["fp32"], [RTX], tmp_path, lines.append)
    assert len(lines) == 1
    assert list(first.engines) == list(again.engines) == ["tensorrt_rtx-fp32-portable"]


@needs_rtx
def test_an_engine_that_can_not_run_here_is_left_out_and_not_made(tmp_path: Path, network: str):
    if find_devices()[0]:
        pytest.skip("there is a device")
    subject = bundles.lab_bundle(network, ["fp32"], ["onnxruntime", RTX], tmp_path, lambda _: None)
    assert list(subject.engines) == ["onnxruntime-fp32-cpu"]
    assert any(line.startswith("tiny tensorrt_rtx fp32 from float32: no usable GPU: ") for line in subject.left_out)
    assert list(Bundle.open(subject.bundle.path).manifest.engines) == ["onnxruntime-fp32-cpu"]


def test_tensorrt_is_a_default_backend_where_it_is_here(monkeypatch: pytest.MonkeyPatch):
    if find_devices()[0]:
        pytest.skip("there is a device")
    assert here.backends_here() == ("onnxruntime", "openvino")
    monkeypatch.setattr(here, "gpu_obstacle", lambda backend: "" if backend == "tensorrt" else "not here")
    assert here.backends_here() == ("onnxruntime", "openvino", "tensorrt")


def test_why_a_backend_is_no_default():
    if find_devices()[0]:
        pytest.skip("there is a device")
    missing = [name for name in ("tensorrt", RTX) if importlib.util.find_spec(name) is None]
    assert all(here.gpu_obstacle(name) == f"the package {name} is not installed" for name in missing)
    assert all("no usable GPU" in here.gpu_obstacle(name) for name in {"tensorrt", RTX} - set(missing))


def test_fp16_is_a_default_on_gpus_only():
    assert lab_precisions(["onnxruntime", "openvino"]) == LAB_PRECISIONS
    assert lab_precisions(["onnxruntime", "tensorrt"]) == (*LAB_PRECISIONS, "fp16")


def test_onnxruntimes_cuda_provider_has_cells_beside_those_of_the_cpu(
    tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
):
    """Providers and GPU are doubles; FP16 is a default then, as for TensorRT."""
    asked = onnxruntime_gpu_double.install(monkeypatch)
    monkeypatch.setattr(onnxruntime, "find_devices", lambda: ((), "none"))
    assert bundles.lab_bundle(network, ["fp32"], ["onnxruntime"], tmp_path, print).engines == ["onnxruntime-fp32-cpu"]
    assert lab_precisions(["onnxruntime"]) == LAB_PRECISIONS
    monkeypatch.setattr(onnxruntime, "find_devices", lambda: ((Device(0, (8, 6)),), ""))
    assert lab_precisions(["onnxruntime"]) == (*LAB_PRECISIONS, "fp16")
    assert lab_precisions(["openvino"]) == LAB_PRECISIONS
    lines: list[str] = []
    for _ in range(2):
        subject = bundles.lab_bundle(network, ["fp32", "int8"], ["onnxruntime"], tmp_path, lines.append)
        assert [name for name in subject.engines if "fp32" in name] == ["onnxruntime-fp32-cpu", "onnxruntime-fp32-cuda"]
        assert not any("int8" in name and "cuda" in name for name in subject.engines)
    assert lines.count("compile tiny onnxruntime-fp32-cuda") == 1
    assert asked
    fp16 = bundles.lab_bundle(network, ["fp16"], ["onnxruntime"], tmp_path, lines.append)
    assert any("fp16 on cuda: engine onnxruntime-fp16-cuda: expected at least" in line for line in fp16.left_out), (
        "the audit sees that the double computes it in FP32"
    )
    subject = bundles.lab_bundle(network, ["fp32"], ["onnxruntime"], tmp_path, lines.append)
    monkeypatch.setattr(
        "resnetrt.benchmarks.depth.lab.measure_peaks", lambda *_: {"best": {}, "copy_gb_s": 20.0, "matmul": []}
    )
    monkeypatch.setattr("resnetrt.benchmarks.depth.lab.measure_overhead", lambda *_: [])
    options = LabOptions(batches=(1,), threads=1, rounds=2, end_to_end=False, memory=False)
    record = run_lab([subject], options, lambda _: None)
    cells = {row["engine"]: row["device"] for row in record["results"]}
    assert cells == {
        "onnx-fp32": "cpu",
        "onnxruntime-fp32-cpu": "cpu",
        "onnxruntime-fp32-cuda": "gpu",
    }
    assert record["peaks"]["gpu"]["best"] == {}, "no rate of the CPU stands for the GPU's"
