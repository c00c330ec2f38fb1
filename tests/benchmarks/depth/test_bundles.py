"""The depth lab's bundles: engines are made once, for the backends that can run here."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import make_bundle

from resnetrt.benchmarks.compare.bench import LAB_PRECISIONS, lab_precisions
from resnetrt.benchmarks.depth import bundles
from resnetrt.benchmarks.verify.prepare import recipe_hash
from resnetrt.bundle import Bundle
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines import here
from resnetrt.runtime.cuda import find_devices

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
