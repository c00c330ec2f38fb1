"""A tiny network at FP32 and FP16, for builds with TensorRT."""

from pathlib import Path

import network_files
import pytest
import tiny_bundle


@pytest.fixture(scope="session")
def tiny_fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "fp32.onnx"
    tiny_bundle.write_onnx(path)
    return path


@pytest.fixture(scope="session")
def tiny_fp16(tiny_fp32: Path) -> Path:
    assert network_files.write_half(tiny_fp32, tiny_fp32.with_name("fp16.onnx")) == {}
    return tiny_fp32.with_name("fp16.onnx")
