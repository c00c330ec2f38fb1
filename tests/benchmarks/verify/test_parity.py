"""`verify` compares every engine with the reference, whatever it takes."""

from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from resnetrt.benchmarks.verify.parity import verify_bundle
from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.benchmarks.verify.reference import find_reference
from resnetrt.cli import run
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.fp32.export import export_bundle
from resnetrt.golden import Golden


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_that_takes_frames_passes_beside_one_that_takes_images(backend: str, tmp_path: Path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    names = [compile_variant(bundle, variant, backend) for variant in ("fp32", "fp32.frames")]
    reference, verdicts = verify_bundle(bundle)
    assert reference.name == "golden-outputs"
    assert [(item.engine, item.problems) for item in verdicts] == [(name, ()) for name in sorted(names)]
    assert all(item.live is not None and (item.live.n, item.live.max_abs < 1e-4) == (20, True) for item in verdicts)
    assert run(["verify", str(bundle.path)]) == 0


def test_engines_see_the_images_that_eager_has_seen(tmp_path: Path):
    """Also if the module writes into its input."""
    bundle, _ = export_bundle(prepare_export("odd_networks:normalizes_in_place", golden_count=16), tmp_path / "b")
    images = bundle.manifest.preprocessing.normalize(Golden.of(bundle).frames)
    before = images.copy()
    np.testing.assert_allclose(find_reference(bundle).infer(images), Golden.of(bundle).logits, atol=1e-5)
    np.testing.assert_array_equal(images, before)
