"""`verify` compares every engine with the reference, whatever it takes."""

from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.benchmarks.verify.parity import verify_bundle
from resnetrt.cli import run
from resnetrt.export.engines.compile import compile_variant


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_that_takes_frames_passes_beside_one_that_takes_images(backend: str, tmp_path: Path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    names = [compile_variant(bundle, variant, backend) for variant in ("fp32", "fp32.frames")]
    reference, verdicts = verify_bundle(bundle)
    assert reference.name == "onnx-fp32"
    assert [(item.engine, item.problems) for item in verdicts] == [(name, ()) for name in sorted(names)]
    assert all(item.live is not None and (item.live.n, item.live.max_abs < 1e-4) == (20, True) for item in verdicts)
    assert run(["verify", str(bundle.path)]) == 0
