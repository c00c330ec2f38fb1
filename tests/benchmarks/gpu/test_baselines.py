"""The GPU check's baselines, on the CPU: their times, and that other logits are found."""

from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from resnetrt.benchmarks.gpu import baselines
from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_RUNS", 5)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose eager module is known."""
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    monkeypatch.setattr("resnetrt.benchmarks.verify.reference.checked_eager", lambda _: tiny_module())
    return made


def tiny_module():
    """The network of `tiny_bundle` in torch."""
    import torch
    from torch import nn

    weights = {name: torch.from_numpy(value) for name, value in tiny_bundle.weights().items()}

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in weights.items():
                self.register_buffer(name.replace(".", "_"), value)

        def forward(self, x):
            stem = torch.relu(nn.functional.conv2d(x, self.stem_w, self.stem_b, padding=1))
            block = torch.relu(nn.functional.conv2d(stem, self.conv_w, self.conv_b, padding=1) + stem)
            return block.mean((2, 3)) @ self.fc_w.T + self.fc_b

    return Tiny().eval()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_with_and_without_transfers(bundle: Bundle, precision: str):
    measured = baselines.check_torch(bundle.path, precision, False, "cpu")
    assert set(measured) == {"with_transfers", "without_transfers"}
    for times in measured.values():
        assert set(times) == {f"batch_{batch}_{what}_ms" for batch in (1, 8) for what in ("median", "p99")}
        assert all(value > 0 for value in times.values())


def test_another_module_is_found(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    wrong = tiny_module()
    wrong.fc_w.copy_(wrong.fc_w.flip(0))
    monkeypatch.setattr("resnetrt.benchmarks.verify.reference.checked_eager", lambda _: wrong)
    with pytest.raises(CheckFailed, match=r"torch fp32 on cpu: expected the golden logits, found a cosine of"):
        baselines.check_torch(bundle.path, "fp32", False, "cpu")


def test_onnxruntime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    measured = baselines.check_onnxruntime(bundle.path, "fp32", "cpu")
    assert measured["engine"] == "onnxruntime-fp32-cpu"
    assert measured["with_transfers"]["batch_8_median_ms"] > 0
    monkeypatch.setattr(baselines, "_golden_images", lambda _: np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(CheckFailed, match="found a cosine of nan"):
        baselines.check_onnxruntime(bundle.path, "fp32", "cpu")
