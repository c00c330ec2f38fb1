"""`resnetrt inspect`: what a bundle holds, or one file: an ONNX model, a calibration record, tensors, or JSON."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from resnetrt.cli.options import json_option
from resnetrt.cli.output import emit_json, print_table
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.parts import import_part

_LISTED = 20  # tensors that are listed; the rest is only counted


@click.command("inspect")
@click.argument("bundle", metavar="BUNDLE|FILE", type=click.Path(path_type=Path))
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Check BUNDLE's schema and hashes and show its model, variants and engines; or what one FILE holds.

    FILE is an ONNX model, a calibration record, a file of weights, or JSON such as an engine's sidecar.
    """
    if bundle.is_file():
        _show_file(bundle, as_json)
    else:
        _show_bundle(bundle, as_json)


def _show_file(path: Path, as_json: bool) -> None:
    description = describe(path)
    if as_json:
        emit_json({"file": str(path), **description})
        return
    click.echo(f"{path}: {description.pop('kind')}, {path.stat().st_size / 1e6:.2f} MB")
    if "content" in description:
        click.echo(json.dumps(description["content"], indent=2, sort_keys=True))
        return
    for name, value in description.items():
        if isinstance(value, dict):
            print_table(name, ("name", "value"), [(key, str(item)) for key, item in value.items()], left=2)
        else:
            click.echo(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _show_bundle(bundle: Path, as_json: bool) -> None:
    from resnetrt.bundle import Bundle

    manifest = Bundle.open(bundle).manifest
    record: dict[str, Any] = json.loads(manifest.to_bytes())
    if as_json:
        emit_json({"bundle": str(bundle), "manifest": record})
        return
    click.echo(
        f"{bundle}: {manifest.name}, {manifest.classes} classes, input {manifest.input.shape}, "
        f"checked on {manifest.golden_words}, weights: {manifest.weights_name}"
    )
    rows = []
    for name, variant in sorted(manifest.variants.items()):
        parity = variant.evidence.get("parity", {})
        size = manifest.files[variant.file].size_bytes
        rows.append((name, variant.precision, f"{size / 1e6:.2f}", f"{parity.get('sqnr_db', float('nan')):.1f}"))
    print_table("Variants", ("variant", "precision", "MB", "SQNR dB"), rows, left=2)
    engines = []
    for name, engine in sorted(manifest.engines.items()):
        engines.append((name, engine.variant, f"{manifest.files[engine.file].size_bytes / 1e6:.2f}"))
    print_table("Engines", ("engine", "variant", "MB"), engines, left=2)
    click.echo(f"{len(manifest.files)} files, all hashes match")


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
    onnx = import_part("onnx", "inspect")
    types = onnx.TensorProto.DataType
    model = onnx.load(str(path))
    constants = {tensor.name for tensor in model.graph.initializer}
    operators = Counter(node.op_type for node in model.graph.node)
    return {
        "kind": "ONNX model",
        "opset": max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(types, value) for value in model.graph.input if value.name not in constants],
        "outputs": [_value(types, value) for value in model.graph.output],
        "operators": dict(operators.most_common()),
        "constants": {"count": len(constants), "bytes": sum(tensor.ByteSize() for tensor in model.graph.initializer)},
    }


def _value(types: Any, value: Any) -> str:
    kind = value.type.tensor_type
    axes = ", ".join(axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim)
    return f"{value.name} {types.Name(kind.elem_type).lower()} ({axes})"


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
