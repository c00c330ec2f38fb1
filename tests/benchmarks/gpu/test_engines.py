"""The checks of engines, on engines that the CPU runs, and each seen failing."""

from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.benchmarks.gpu import engines as gpu_engines
from resnetrt.errors import CheckFailed
from resnetrt.export.engines.compile import compile_variant


def test_parity_of_an_engine(tmp_path: Path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    measured = gpu_engines.check_parity(bundle.path, "onnxruntime", "cpu", "fp32")
    assert measured["engine"] == "onnxruntime-fp32-cpu"
    assert measured["parity"]


def test_an_engine_in_another_precision_fails_its_check(tmp_path: Path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    engine = compile_variant(bundle, "fp32", "onnxruntime")
    assert gpu_engines.audited(bundle, engine, "fp32")["share_by_precision"] == {"fp32": 1.0}
    with pytest.raises(CheckFailed, match=r"expected at least 95\.0% of the .* in fp16, found fp32 100\.0%"):
        gpu_engines.audited(bundle, engine, "fp16")
