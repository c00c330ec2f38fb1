"""The reference that engines are compared with: live eager if torch and the weights are here, else FP32 ONNX.

On the golden images, eager's stored outputs are a reference that every bundle has.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnetrt.benchmarks.measure.latency import BASELINE, SUBSTITUTE, Infer
from resnetrt.bundle import Bundle
from resnetrt.errors import ResnetrtError, UsageError, WeightsError
from resnetrt.golden import Golden
from resnetrt.parity import compare, require
from resnetrt.preprocess import FloatArray

if TYPE_CHECKING:
    from torch import nn


STORED = "golden-outputs"


@dataclass(frozen=True)
class Reference:
    """`infer` maps float32 `(N, C, H, W)` to logits; `why` is the reason if it is not live eager."""

    name: str
    infer: Infer
    why: str = ""


def find_reference(bundle: Bundle, weights: Path | None = None) -> Reference:
    """The eager model of a bundle, checked against its golden logits; else its FP32 ONNX file in ONNX Runtime.

    `weights` is the file that it was exported with; it is needed unless the weights are shipped or random. Raises
    `WeightsError` for weights other than the bundle's, `CheckFailed` if eager does not reproduce the golden logits,
    `UsageError` if the bundle was packaged without its FP32 file, and eager can't be rebuilt either.
    """
    try:
        module = rebuild_eager(bundle, weights)
    except _NoEager as error:
        return Reference(SUBSTITUTE, _onnx_infer(bundle), str(error))
    return _live(bundle, module)


def golden_reference(bundle: Bundle, weights: Path | None = None) -> Reference:
    """Live eager, else what eager said of the golden images when the bundle was exported.

    `infer` takes the golden images, preprocessed, and no others. Raises what `find_reference` does about eager.
    """
    try:
        module = rebuild_eager(bundle, weights)
    except _NoEager as error:
        return Reference(STORED, lambda _images: Golden.of(bundle).logits, str(error))
    return _live(bundle, module)


def _live(bundle: Bundle, module: "nn.Module") -> Reference:
    infer = on_a_copy(eager_infer(module))
    _check_golden(bundle, infer)
    return Reference(BASELINE, infer)


def rebuild_eager(bundle: Bundle, weights: Path | None) -> "nn.Module":
    """The bundle's module in evaluation mode, with weights of the recorded hash."""
    if importlib.util.find_spec("torch") is None:
        raise _NoEager("torch is not installed")
    from resnetrt.models import resolve

    manifest = bundle.manifest
    name = manifest.model.get("definition") or manifest.model.get("factory") or ""
    try:
        resolved = resolve(name, weights, **manifest.model.get("options", {}))
    except ResnetrtError as error:
        if weights is not None:
            raise
        raise _NoEager(str(error)) from error
    found = None if resolved.weights is None else resolved.weights.sha256
    recorded = manifest.weights.get("sha256")
    if found == recorded:
        return resolved.module
    if weights is None:
        raise _NoEager(f"the weights {manifest.weights.get('name')} are not at hand; name them with --weights")
    raise WeightsError(
        f"--weights {weights}: expected the file the bundle was exported with (SHA-256 {str(recorded)[:12]}...), "
        f"found {str(found)[:12]}..."
    )


def eager_infer(module: "nn.Module") -> Infer:
    """Logits from the eager module, without gradients. A module that writes into its input writes into the images."""
    import torch

    def infer(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits: FloatArray = module(torch.from_numpy(images)).numpy()
        return logits

    return infer


def on_a_copy(infer: Infer) -> Infer:
    """`infer`, which may write into its input, for images that others read after it. What is timed needs no copy."""
    return lambda images: infer(images.copy())


class _NoEager(UsageError):
    """Why the eager model can't be rebuilt here."""


def _check_golden(bundle: Bundle, infer: Infer) -> None:
    golden = Golden.of(bundle)
    found = compare(golden.logits, infer(bundle.manifest.preprocessing.normalize(golden.frames)), golden.noise)
    require(found, "eager", "fp32", f"the eager model rebuilt for {bundle.manifest.name}")


def _onnx_infer(bundle: Bundle) -> Infer:
    from resnetrt.export.variants.parity import onnx_runner

    run: Callable[[FloatArray], FloatArray] = onnx_runner(bundle.variant_file("fp32"))
    return run
