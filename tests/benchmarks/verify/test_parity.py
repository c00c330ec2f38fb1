"""`verify` compares every engine with the reference, whatever it takes."""

import sys
from pathlib import Path

import double_machine
import numpy as np
import pytest
import tiny_bundle
import torch
from host_cuda import HostCuda

from resnetrt.benchmarks.verify.parity import verify_bundle
from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.benchmarks.verify.reference import find_reference
from resnetrt.cli import run
from resnetrt.errors import WeightsError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.fp32.export import export_bundle
from resnetrt.golden import Golden
from resnetrt.models import resolve


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_that_takes_frames_passes_beside_one_that_takes_images(backend: str, tmp_path: Path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    names = [compile_variant(bundle, variant, backend) for variant in ("fp32", "fp32.frames")]
    reference, verdicts = verify_bundle(bundle)
    assert reference.name == "golden-outputs"
    assert [(item.engine, item.problems) for item in verdicts] == [(name, ()) for name in sorted(names)]
    assert all(item.live is not None and (item.live.n, item.live.max_abs < 1e-4) == (20, True) for item in verdicts)
    assert run(["verify", str(bundle.path)]) == 0


def test_an_engine_on_a_gpu_gets_the_next_batch_while_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundle, cuda = tiny_bundle.make_bundle(tmp_path / "tiny.bundle"), HostCuda()
    double_machine.install(bundle.variant_file("fp32"), cuda, monkeypatch.setattr, monkeypatch.setitem)
    double_machine.add_engine(bundle)
    _, (verdict,) = verify_bundle(bundle, [double_machine.ENGINE])
    assert verdict.problems == ()
    assert verdict.live is not None
    assert verdict.live.n == 20
    assert cuda.counts["finish"] == 3 + 20  # batches of 8, single images
    assert cuda.held == 0


def test_engines_see_the_images_that_eager_has_seen(tmp_path: Path):
    """Also if the module writes into its input."""
    bundle, _ = export_bundle(prepare_export("odd_networks:normalizes_in_place", golden_count=16), tmp_path / "b")
    images = bundle.manifest.preprocessing.normalize(Golden.of(bundle).frames)
    before = images.copy()
    np.testing.assert_allclose(find_reference(bundle).infer(images), Golden.of(bundle).logits, atol=1e-5)
    np.testing.assert_array_equal(images, before)


def test_a_missing_factory_is_not_blamed_on_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gone_net.py").write_text("from odd_networks import normalizes_in_place as net")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(resolve("gone_net:net").module.state_dict(), tmp_path / "net.pt")
    bundle, _ = export_bundle(prepare_export("gone_net:net", Path("net.pt"), golden_count=16), tmp_path / "b")
    assert find_reference(bundle).name == "eager-fp32"
    (tmp_path / "gone_net.py").unlink()
    monkeypatch.delitem(sys.modules, "gone_net")
    why = find_reference(bundle).why
    assert why.endswith("no module 'gone_net' here or installed; run beside it or install it")


def test_the_weights_of_the_export_are_found_again_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(resolve("fashion_resnet20").module.state_dict(), tmp_path / "net.pt")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        request = prepare_export("fashion_resnet20", Path("net.pt"), golden_count=16)
    bundle, _ = export_bundle(request, tmp_path / "b")
    assert find_reference(bundle).name == "eager-fp32"
    elsewhere = tmp_path / "moved.pt"
    (tmp_path / "net.pt").rename(elsewhere)
    reference = find_reference(bundle)
    assert reference.name == "onnx-fp32"
    assert str(tmp_path / "net.pt") in reference.why
    assert reference.why.endswith("; name the file with --weights")
    assert find_reference(bundle, elsewhere).name == "eager-fp32"
    other = resolve("fashion_resnet20").module
    other.fc.bias.data += 1
    torch.save(other.state_dict(), tmp_path / "net.pt")
    assert "expected the file the bundle was exported with (SHA-256 " in find_reference(bundle).why
    with pytest.raises(WeightsError, match=r"--weights .*net\.pt: expected the file the bundle was exported with"):
        find_reference(bundle, tmp_path / "net.pt")
