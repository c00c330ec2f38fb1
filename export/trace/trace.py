"""From a traced program to ONNX, in one file."""

from pathlib import Path

import onnx
import torch
from torch.export import ExportedProgram

from resnetrt.errors import CheckFailed
from resnetrt.export.trace.quiet import first_cause, quiet
from resnetrt.export.trace.tidy import tidy

DEFAULT_OPSET = 20
INPUT, OUTPUT = "input", "logits"


def write_onnx(program: ExportedProgram, path: Path, opset: int = DEFAULT_OPSET, name: str = "the network") -> None:
    """Write a traced program as ONNX to `path`; `name` is the network's in errors.

    Raises `CheckFailed` when it can't be translated.
    """
    try:
        with quiet():
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    except Exception as error:
        raise CheckFailed(f"translating {name} to ONNX opset {opset} failed: {first_cause(error)}") from error
    if exported is None:
        raise CheckFailed(f"translating {name} to ONNX gave nothing")
    exported.save(str(path), external_data=False)
    try:
        tidy(path)
    except onnx.shape_inference.InferenceError as error:
        raise CheckFailed(f"ONNX graph of {name}: shapes don't fit: {first_cause(error)}") from error
