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
    """The eager model of a bundle; else its FP32 ONNX file in ONNX Runtime.

    Raises what `checked_eager` does but `NoEager`, and `UsageError` if the bundle was packaged without its FP32 file,
    and eager can't be rebuilt either.
    """
    try:
        return Reference(BASELINE, on_a_copy(eager_infer(checked_eager(bundle, weights))))
    except NoEager as error:
        return Reference(SUBSTITUTE, _onnx_infer(bundle), str(error))


def golden_reference(bundle: Bundle, golden: Golden, weights: Path | None = None) -> Reference:
    """Live eager, else what eager said of the `golden` images when the bundle was exported.

    Then `infer` gives these logits, all of them, whatever it is given. Raises what `checked_eager` does but `NoEager`.
    """
    try:
        return Reference(BASELINE, on_a_copy(eager_infer(checked_eager(bundle, weights))))
    except NoEager as error:
        return Reference(STORED, lambda _images: golden.logits, str(error))


def checked_eager(bundle: Bundle, weights: Path | None = None) -> "nn.Module":
    """The eager model of a bundle, checked against its golden logits.

    `weights` is the file that it was exported with; it is needed if that was moved since. Raises
    `NoEager` where the model can't be rebuilt, `WeightsError` for weights other than the bundle's, `CheckFailed` if it
    does not reproduce the golden logits.
    """
    module = rebuild_eager(bundle, weights)
    golden = Golden.of(bundle)
    logits = on_a_copy(eager_infer(module))(bundle.manifest.preprocessing.normalize(golden.frames))
    parity = compare(golden.logits, logits, golden.noise)
    require(parity, "eager", "fp32", f"the eager model rebuilt for {bundle.manifest.name}")
    return module


def rebuild_eager(bundle: Bundle, weights: Path | None) -> "nn.Module":
    """The bundle's module in evaluation mode, with weights of the recorded hash.

    Without `weights` the file is read that the bundle was exported with, if it is still where it was.
    """
    if importlib.util.find_spec("torch") is None:
        raise NoEager("torch is not installed")
    from resnetrt.models import resolve

    manifest = bundle.manifest
    name = manifest.model.get("definition") or manifest.model.get("factory") or ""
    remembered = manifest.weights.get("path")
    try:
        file = weights or (Path(remembered) if remembered else None)
        resolved = resolve(name, file, **manifest.model.get("options", {}))
    except ResnetrtError as error:
        if weights is not None:
            raise
        elsewhere = "; name the file with --weights" if remembered and isinstance(error, WeightsError) else ""
        raise NoEager(f"{error}{elsewhere}") from error
    sha256 = None if resolved.weights is None else resolved.weights.sha256
    recorded = manifest.weights.get("sha256")
    if sha256 == recorded:
        return resolved.module
    unlike = f"expected the file the bundle was exported with (SHA-256 {str(recorded)[:12]}...)"
    if weights is not None:
        raise WeightsError(f"--weights {weights}: {unlike}, found {str(sha256)[:12]}...")
    if remembered:
        raise NoEager(f"weights {remembered}: {unlike}, found {str(sha256)[:12]}...; name that file with --weights")
    raise NoEager(f"the weights {manifest.weights.get('name')} are not at hand; name them with --weights")


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


class NoEager(UsageError):
    """Why the eager model can't be rebuilt here."""


def _onnx_infer(bundle: Bundle) -> Infer:
    from resnetrt.export.variants.parity import onnx_runner

    run: Callable[[FloatArray], FloatArray] = onnx_runner(bundle.variant_file("fp32"))
    return run
