"""Exporting to a bundle: what is stored, and that nothing is stored when any check fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from torch import nn

from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.fp32 import export as module
from resnetrt.export.fp32.export import ExportRequest, export_bundle
from resnetrt.export.variants.parity import golden_outputs, run_onnx
from resnetrt.golden import Golden
from resnetrt.parity import Parity, compare, failures, tolerance
from resnetrt.preprocess import Preprocessing

RGB = Preprocessing("RGB", 16, (16, 16), (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))


def frames(count: int, size: int = 16) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (count, size // 4, size // 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def request_for(net: nn.Module, **changes: Any) -> ExportRequest:
    wanted = ExportRequest(
        name="small",
        module=net,
        preprocessing=RGB,
        labels=tuple("abcde"),
        spec={"definition": "small"},
        weights={"name": "seed 0"},
        golden_frames=frames(20),
        golden_source="synthetic",
    )
    return replace(wanted, **changes)


def one_layer() -> nn.Module:
    """The least that has everything: 5 logits from a convolution and its BatchNorm."""
    return small_models.randomize(small_models.Chain(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))


def parity_of_fp32(bundle: Bundle) -> Parity:
    """Parity with eager, measured anew."""
    golden = Golden.of(bundle)
    return compare(golden.logits, golden_outputs(bundle, bundle.variant_file("fp32")), golden.noise)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("export") / "small.bundle"
    return export_bundle(request_for(small_models.build("projection")), out)[0]


def test_what_is_in_the_bundle(exported: Bundle):
    opened = Bundle.open(exported.path)
    manifest = opened.manifest
    assert manifest == exported.manifest
    assert set(manifest.files) == {
        "fp32.onnx",
        "fold.json",
        "golden.safetensors",
        "golden/fp32.safetensors",
        "outlines/fp32.json",
    }
    assert (manifest.name, manifest.classes, manifest.labels) == ("small", 5, list("abcde"))
    assert (manifest.input.name, manifest.input.shape, manifest.output) == ("input", (3, 16, 16), "logits")
    assert manifest.preprocessing == RGB
    assert manifest.golden == {"source": "synthetic", "images": 20}
    assert {"numpy", "torch", "onnx", "onnxruntime"} <= manifest.tools.keys()
    evidence = manifest.variants["fp32"].evidence
    assert evidence["opset"] == 20
    assert evidence["parity"]["n"] == 20
    assert evidence["parity"]["max_abs"] <= 1e-4
    assert opened.read_json("fold.json")["folded"] == 8


def test_golden_logits_are_of_the_eager_model_before_folding(exported: Bundle):
    golden = Golden.of(exported)
    with torch.no_grad():
        expected = small_models.build("projection")(torch.from_numpy(RGB.normalize(frames(20))))
    np.testing.assert_array_equal(golden.frames, frames(20))
    np.testing.assert_allclose(golden.logits, expected.numpy(), atol=1e-5)


def test_measured_again_the_parity_is_the_stored_one(exported: Bundle):
    parity = parity_of_fp32(exported)
    assert parity.to_json() == pytest.approx(exported.manifest.variants["fp32"].evidence["parity"], rel=0.2, abs=1e-7)


def test_the_same_export_gives_the_same_bundle(exported: Bundle, tmp_path: Path):
    export_bundle(request_for(small_models.build("projection")), tmp_path / "again")
    for name in (*exported.manifest.files, "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported.path / name).read_bytes(), name


def test_an_exporter_that_changes_the_network_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A translation with 0 % top-1 in silence has been seen: parity on the golden images, or no bundle."""
    right = module.write_onnx

    def wrong(program: torch.export.ExportedProgram, *rest: Any) -> None:
        with torch.no_grad():
            program.state_dict["fc.weight"].neg_()
        right(program, *rest)

    monkeypatch.setattr(module, "write_onnx", wrong)
    message = r"export of small: parity with the eager model failed over 20 golden images: max abs error .* SQNR .* dB"
    with pytest.raises(CheckFailed, match=message):
        export_bundle(request_for(small_models.build("projection")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_lint_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = module.write_onnx
    monkeypatch.setattr(module, "write_onnx", lambda program, path, _opset, name: right(program, path, 18, name))
    monkeypatch.setattr("resnetrt.export.variants.lint.OPSET_RANGE", (19, 25))
    with pytest.raises(CheckFailed, match=r"fp32\.onnx: opset 18 is outside TensorRT's 19 to 25"):
        export_bundle(request_for(one_layer()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_a_number(tmp_path: Path):
    net = one_layer()
    net.get_submodule("layers.0").weight.data[0] = torch.nan
    with pytest.raises(CheckFailed, match="small: 20 of 100 logits of eager are NaN or infinite; look at its weights"):
        export_bundle(request_for(net), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_labels_must_be_as_many_as_logits(tmp_path: Path):
    with pytest.raises(UsageError, match="labels: expected 5, one per logit, found 2"):
        export_bundle(request_for(one_layer(), labels=("a", "b")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_destination_is_checked_before_any_work(tmp_path: Path, exported: Bundle):
    class Unused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="expected a new path or a bundle, found something else"):
        export_bundle(request_for(Unused()), tmp_path)
    with pytest.raises(UsageError, match="a bundle is there already; add --overwrite"):
        export_bundle(request_for(Unused()), exported.path)


def test_a_network_that_mixes_the_images_of_a_batch(tmp_path: Path):
    net = small_models.randomize(small_models.Chain(nn.Conv2d(3, 5, 3), nn.Softmax(0)))
    with pytest.raises(CheckFailed, match=r"small gives other logits for an image alone .* _softmax in layers\.1"):
        export_bundle(request_for(net), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class InPlace(small_models.Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.4).div_(0.3)
        return super().forward(x)


def test_a_network_that_normalizes_its_input_in_place(tmp_path: Path):
    net = small_models.randomize(InPlace(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))
    bundle, fold = export_bundle(request_for(net), tmp_path / "out")
    assert len(fold.certificates) == 1
    assert bundle.manifest.variants["fp32"].evidence["parity"]["max_abs"] <= 1e-5
    with torch.no_grad():
        expected = torch.cat([net(torch.from_numpy(RGB.normalize(frames(20)[i : i + 1]))) for i in range(20)])
    np.testing.assert_allclose(Golden.of(bundle).logits, expected.numpy(), atol=1e-5)


class Cancelling(nn.Module):
    """Large terms that cancel: eager's float32 logits are 2e-4 from float64, ONNX Runtime's 9e-4 from eager's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.fc = nn.Linear(768, 256), nn.Linear(256, 5)
        with torch.no_grad():
            self.fc.weight.sub_(self.fc.weight.mean(1, keepdim=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.hidden(x.flatten(1)) + 1500)


def test_parity_of_fp32_allows_for_eagers_own_rounding(tmp_path: Path):
    bundle, _ = export_bundle(request_for(Cancelling()), tmp_path / "out")
    evidence = bundle.manifest.variants["fp32"].evidence["parity"]
    assert evidence["max_abs"] > 1e-4
    assert evidence["noise"] == pytest.approx(Golden.of(bundle).noise, rel=1e-6)
    assert evidence["max_abs"] < 5 * evidence["noise"]
    assert failures(parity_of_fp32(bundle), tolerance("onnxruntime", "fp32")) == []


@pytest.mark.parametrize("make", [small_models.PreActivation, small_models.ConvUsedTwice])
def test_networks_with_a_kept_batch_norm_export(make: type[nn.Module], tmp_path: Path):
    net = small_models.randomize(make())
    bundle, fold = export_bundle(request_for(net, labels=()), tmp_path / "out")
    assert len(fold.kept) == 1
    assert bundle.manifest.labels == []
    assert bundle.read_json("fold.json")["kept"][0]["batch_norm"] == fold.kept[0].batch_norm


def test_an_untrained_network_exports(tmp_path: Path):
    """BatchNorm as initialised folds to biases of zero."""
    net = small_models.Chain(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)).eval()
    assert export_bundle(request_for(net), tmp_path / "out")[1].kept == []


def test_run_onnx_does_not_depend_on_the_batch(exported: Bundle):
    images = small_models.pictures("projection", 11).numpy()
    one = run_onnx(exported.variant_file("fp32"), images, batch=1)
    assert one.shape == (11, 5)
    for batch in (4, 11, 64):
        np.testing.assert_allclose(run_onnx(exported.variant_file("fp32"), images, batch), one, atol=1e-5)


def test_the_embedded_network(exported_fashion: Path):
    bundle = Bundle.open(exported_fashion)
    fold = bundle.read_json("fold.json")
    assert (fold["folded"], fold["kept"]) == (21, [])  # 19 convolutions and 2 projections
    assert fold["max_relative_error"] <= 1e-5
    parity = bundle.manifest.variants["fp32"].evidence["parity"]
    assert parity["max_abs"] <= 1e-4
    assert parity["top1_agreement"] == 1


def test_a_full_disk_leaves_nothing(full_disk_of: Callable[[int], Path]):
    disk = full_disk_of(16 << 10)
    with pytest.raises(OSError, match="No space left on device"):
        export_bundle(request_for(one_layer()), disk / "net")
    assert list(disk.iterdir()) == []
