"""Describe what one file holds: an ONNX model, a calibration record, other tensors, or JSON."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from resnetrt.errors import BackendMissing, UsageError

_LISTED = 20  # tensors that are listed; the rest is only counted


def describe(path: Path) -> dict[str, Any]:
    """The description of the file, as JSON. Raises `UsageError` for a damaged file or one of another kind."""
    known = {".onnx": _model, ".safetensors": _tensors, ".json": _json}
    if path.suffix not in known:
        raise UsageError(f"inspect {path}: expected a bundle or a file {', '.join(known)}, found {path.suffix or path}")
    try:
        return known[path.suffix](path)
    except (BackendMissing, OSError):
        raise
    except Exception as error:  # onnx, safetensors and json have their own exception types
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"inspect {path}: expected a readable {path.suffix} file, found: {text}") from error


def _model(path: Path) -> dict[str, Any]:
    try:
        import onnx
    except ImportError as error:
        raise BackendMissing("inspect: onnx is not installed; run: pip install 'resnetrt[export]'") from error
    model = onnx.load(str(path))
    constants = {tensor.name for tensor in model.graph.initializer}
    operators = Counter(node.op_type for node in model.graph.node)
    return {
        "kind": "ONNX model",
        "opset": max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(value) for value in model.graph.input if value.name not in constants],
        "outputs": [_value(value) for value in model.graph.output],
        "operators": dict(operators.most_common()),
        "constants": {"count": len(constants), "bytes": sum(tensor.ByteSize() for tensor in model.graph.initializer)},
    }


def _value(value: Any) -> str:
    import onnx

    kind = value.type.tensor_type
    axes = ", ".join(axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim)
    return f"{value.name} {onnx.TensorProto.DataType.Name(kind.elem_type).lower()} ({axes})"


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    from resnetrt.calibration_record import HEADER

    with safe_open(path, "np") as file:
        notes = dict(file.metadata() or {})
        names = sorted(file.keys())
        if HEADER in notes:
            return _record(path)
        shapes = {name: file.get_slice(name) for name in names[:_LISTED]}
        listed = {name: f"{part.get_dtype()} {tuple(part.get_shape())}" for name, part in shapes.items()}
    return {"kind": "tensors", "count": len(names), "tensors": listed}


def _record(path: Path) -> dict[str, Any]:
    from resnetrt.calibration_record import CalibrationRecord

    record = CalibrationRecord.read(path)
    ranges = {name: f"{item.minimum:.4g} to {item.maximum:.4g}" for name, item in record.tensors.items()}
    return {
        "kind": "calibration record",
        "dataset": record.dataset,
        "images": len(record.image_hashes),
        "model_sha256": record.model_sha256,
        "tensors": ranges,
    }


def _json(path: Path) -> dict[str, Any]:
    return {"kind": "JSON", "content": json.loads(path.read_bytes())}
