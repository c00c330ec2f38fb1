"""The GPU's peaks: their ONNX files build in TensorRT-RTX, and the rates are those of the double's clock."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from engine_double import EngineDouble
from host_cuda import HostCuda

from resnetrt.benchmarks.measure import gpu_peaks
from resnetrt.engine_record import EngineRecord
from resnetrt.export.compilers import find_compiler
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.cuda import Device, device, find_devices

SIZE, DEPTH = 64, 3


@pytest.mark.parametrize("precision", gpu_peaks.MULTIPLIED)
def test_tensorrt_rtx_builds_the_products(tmp_path: Path, precision: str):
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "products.onnx"
    gpu_peaks.write_products(path, precision, SIZE, DEPTH)
    options = {"profiles": f"{SIZE}:{SIZE}:{SIZE}"}
    compiled = find_compiler("tensorrt_rtx").compile_engine(path, precision, "sm89", options)
    assert [str(spec) for spec in compiled.inputs] == [f"x float32 ({SIZE}, {SIZE})"]


@pytest.mark.parametrize("precision", gpu_peaks.MULTIPLIED)
def test_they_are_products(tmp_path: Path, precision: str):
    """Values neither vanish nor overflow on the way, as they would say nothing about a GPU that skips zeros."""
    path = tmp_path / "products.onnx"
    gpu_peaks.write_products(path, precision, SIZE, DEPTH)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    product = session.run(None, {"x": np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32)})[0]
    assert product.dtype == np.float32
    assert np.isfinite(product).all()
    assert 0.2 < np.count_nonzero(product) / product.size < 0.8
    assert 0.1 < product.std() < 10


def test_the_rate_counts_each_product_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A clock that gives each call two milliseconds."""
    path, cuda = tmp_path / "products.onnx", HostCuda()
    gpu_peaks.write_products(path, "fp32", SIZE, DEPTH)
    record = EngineRecord("products", "tensorrt", "fp32", "gpu")
    ticks = iter(np.arange(0, 100, 0.002).tolist())
    monkeypatch.setattr(gpu_peaks, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    with TensorRtSession(record, EngineDouble(path, cuda), cuda, 1) as session:
        rate = gpu_peaks.products_rate(session, SIZE, DEPTH)
    assert rate == pytest.approx(2 * SIZE**3 * DEPTH / 0.002 / 1e9)


def test_a_copy_counts_as_read_and_written(monkeypatch: pytest.MonkeyPatch):
    cuda = HostCuda()
    times = iter([5.0, 2.0, *[3.0] * 8])
    monkeypatch.setattr(cuda, "elapsed_ms", lambda *_: next(times))
    assert gpu_peaks.gpu_copy_rate(cuda, 1_000_000) == pytest.approx(2 * 1_000_000 / 2.0 / 1e6)
    assert cuda.counts["copy_on_device"] == 10
    assert cuda.held == 0


def test_the_copy_is_one_of_the_gpu_that_is_chosen(monkeypatch: pytest.MonkeyPatch):
    here = (Device(0, (8, 6)), Device(1, (8, 6)), Device(2, (8, 9), uuid="14"))
    monkeypatch.setattr(device, "find_devices", lambda: (here, ""))
    opened: list[int] = []
    monkeypatch.setattr(gpu_peaks, "open_cuda", lambda _, index: opened.append(index) or HostCuda())
    for wanted in ("", "1", "GPU-14"):
        monkeypatch.setenv("RESNETRT_DEVICE", wanted)
        assert gpu_peaks.measure_gpu_peaks([], [])["copy_gb_s"] > 0
    assert opened == [0, 1, 2]


def test_only_tensorrt_multiplies_on_the_gpu():
    """ONNX Runtime's default target is the CPU, whose rate would stand there as the GPU's."""
    assert gpu_peaks.measure_gpu_peaks(["onnxruntime"], ["fp32"])["matmul"] == []


def test_without_a_gpu_each_rate_says_why():
    if find_devices()[0]:
        pytest.skip("there is a device")
    peaks: dict[str, Any] = gpu_peaks.measure_gpu_peaks(["tensorrt_rtx"], ["fp32", "int8", "bf16"])
    assert peaks["best"] == {}
    assert peaks["copy_gb_s"] is None
    assert [row["precision"] for row in peaks["matmul"]] == ["fp32", "int8"]
    assert all("no usable GPU" in row["why"] for row in peaks["matmul"])
    assert peaks["why"]
