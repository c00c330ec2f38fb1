"""From an eager model to a bundle: fold, trace, lint, compare with eager. No parity, no bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnetrt.bundle import Bundle, check_destination, create_bundle
from resnetrt.conditions import tool_versions
from resnetrt.errors import UsageError
from resnetrt.export.fold.fold import FoldResult, fold_batch_norms
from resnetrt.export.fp32.reference import reference_logits
from resnetrt.export.trace.trace import DEFAULT_OPSET, INPUT, OUTPUT, write_onnx
from resnetrt.export.variants.lint import lint
from resnetrt.export.variants.parity import run_onnx
from resnetrt.export.variants.store import enter_variant
from resnetrt.golden import FILE as GOLDEN_FILE
from resnetrt.golden import Golden
from resnetrt.manifest import InputSpec, Manifest, VariantRecord
from resnetrt.parity import compare, require
from resnetrt.preprocess import Preprocessing, UInt8Array
from resnetrt.progress import working


@dataclass(frozen=True)
class ExportRequest:
    """A model to export and what belongs to it.

    `module` takes float32 `(N, C, H, W)` and returns logits; `golden_frames` are real images, uint8 `(n, H, W, C)`,
    `golden_source` says where they come from. `spec` rebuilds the module, `weights` says which weights it has.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    labels: Sequence[str]
    spec: dict[str, Any]
    weights: dict[str, Any]
    golden_frames: UInt8Array
    golden_source: str
    opset: int = DEFAULT_OPSET


def export_bundle(request: ExportRequest, out: Path, overwrite: bool = False) -> tuple[Bundle, FoldResult]:
    """Export to a new bundle at `out`.

    Raises `UsageError` if something is at `out` already, `CheckFailed` if folding, tracing, a graph check or parity
    with eager fails; then nothing is written.
    """
    check_destination(out, overwrite)
    with working(f"exporting {request.name}"):
        return _export(request, out, overwrite)


def _export(request: ExportRequest, out: Path, overwrite: bool) -> tuple[Bundle, FoldResult]:
    module = request.module.eval()
    frames = request.golden_frames
    images = torch.from_numpy(request.preprocessing.normalize(frames))
    logits, noise = reference_logits(module, images, request.name)
    if request.labels and len(request.labels) != logits.shape[1]:
        raise UsageError(f"labels: expected {logits.shape[1]}, one per logit, found {len(request.labels)}")
    fold = fold_batch_norms(module, images[:8])
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    manifest = Manifest(
        name=request.name,
        model=request.spec,
        weights=request.weights,
        input=InputSpec(INPUT, shape),
        output=OUTPUT,
        classes=logits.shape[1],
        preprocessing=request.preprocessing,
        labels=list(request.labels),
        golden={"source": request.golden_source, "images": len(frames)},
        tools=tool_versions(),
    )
    with create_bundle(out, manifest, overwrite) as editor:
        path = editor.new_path("fp32.onnx")
        write_onnx(fold.program, path, request.opset, request.name)
        lint(path, kept_batch_norms=len(fold.kept))
        outputs = run_onnx(path, images.numpy(), as_written=True)
        parity = compare(logits, outputs, noise)
        require(parity, "onnxruntime", "fp32", f"export of {request.name}")
        evidence = {"parity": parity.to_json(), "opset": request.opset}
        enter_variant(editor, "fp32", VariantRecord("fp32.onnx", "fp32", evidence=evidence), outputs)
        editor.write_json("fold.json", fold.to_json())
        editor.write(GOLDEN_FILE, Golden(frames, logits, noise).to_bytes())
    return Bundle(out, editor.manifest), fold
