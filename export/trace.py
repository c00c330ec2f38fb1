"""Trace a module to ONNX with a symbolic batch axis, in one file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from resnetrt.errors import CheckFailed
from resnetrt.export.graph import trace
from resnetrt.export.tidy import tidy

DEFAULT_OPSET = 20
INPUT, OUTPUT = "input", "logits"


def trace_to_onnx(module: nn.Module, input_shape: tuple[int, int, int], path: Path, opset: int = DEFAULT_OPSET) -> None:
    """Write `module` (evaluation mode, float32) as ONNX to `path`: input `(batch, C, H, W)`, output `logits`.

    Raises `CheckFailed` when the module can't be traced or translated.
    """
    program = trace(module.eval(), torch.zeros(2, *input_shape))
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckFailed(f"translating {type(module).__name__} to ONNX opset {opset} failed: {first}") from error
    if exported is None:
        raise CheckFailed(f"translating {type(module).__name__} to ONNX gave nothing")
    exported.save(str(path), external_data=False)
    tidy(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and logs its steps; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
