"""ONNX files of ResNets with random weights at several precisions, without a bundle: for builds, not for accuracy."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from resnetrt.calibration.graph.dialects import dialect
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model
from resnetrt.calibration_record import BINS_PER_SIDE, CalibrationRecord, TensorStatistics
from resnetrt.export.cast.cast import cast_to_half
from resnetrt.export.cast.fit_scales import fit_scales
from resnetrt.export.cast.graph import load_typed
from resnetrt.export.cast.half_types import HALF_TYPES
from resnetrt.export.fold.fold import fold_batch_norms
from resnetrt.export.trace.trace import write_onnx
from resnetrt.models import resolve


class SameStatistics(dict[str, TensorStatistics]):
    """Statistics of a tensor between -3 and 3, for every name."""

    def get(self, _name: str, _default: object = None) -> TensorStatistics:  # type: ignore[override]
        counts = np.full(2 * BINS_PER_SIDE, 10, np.int64)
        return TensorStatistics(-3.0, 3.0, 4.0, counts, np.zeros(1), np.full(1, 3.0))


def write_fp32(name: str, folder: Path, size: int = 224) -> Path:
    """`name` for images of `size`, folded and traced."""
    torch.manual_seed(0)
    module = resolve(name).module.eval()
    fold = fold_batch_norms(module, torch.randn(2, 3, size, size))
    path = folder / f"{name}.fp32.onnx"
    write_onnx(fold.program, path)
    return path


def write_half(source: Path, path: Path, half: str = "fp16") -> dict[str, str]:
    """The 16-bit version of `source`; returns the layers that stayed FP32."""
    model = load_typed(str(source), HALF_TYPES[half].least_opset)
    fit_scales(model.graph)
    kept = cast_to_half(model.graph, HALF_TYPES[half], {})
    ir.save(model, str(path))
    return kept


def write_int8(source: Path, path: Path, dialect_name: str = "tensorrt") -> None:
    """INT8 Q/DQ over FP32, every range the same."""
    record = CalibrationRecord("none", "", (), SameStatistics())
    path.write_bytes(
        quantize_model(source, record, dialect(dialect_name), QuantizeOptions("minmax", bias_correction=False))
    )
