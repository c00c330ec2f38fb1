"""Variants that do not come from the bundle's own calibration record: files of other tools, TensorRT's caches."""

from dataclasses import replace
from pathlib import Path

import onnx

from resnetrt.bundle import Bundle, sha256_of
from resnetrt.calibration.explain.lint_qdq import QdqFinding, lint_qdq
from resnetrt.calibration.explain.suspects import blaming
from resnetrt.calibration.graph.dialects import dialect as find_dialect
from resnetrt.calibration.imports.trt_cache import record_from_cache
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.variants.lint import check_onnx, lint
from resnetrt.export.variants.store import store_variant
from resnetrt.parity import Parity

_SHOWN = 5


def import_variant(bundle: Bundle, source: Path, dialect_name: str) -> tuple[str, Parity, list[QdqFinding]]:
    """Add another tool's Q/DQ file as variant `int8.<dialect>.imported`: linted, run, compared with eager.

    Returns the variant, its golden parity and the linter's warnings. Raises `UsageError` for a file that can't be read
    or that takes other inputs, `CheckFailed` for one that breaks the dialect's rules or is far from the eager model.
    """
    rules = find_dialect(dialect_name)
    _check_interface(bundle, source)
    check_onnx(source)
    findings = lint_qdq(source, rules)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        more = f" | and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        text = f"{source.name} breaks {len(errors)} rules of dialect {rules.name}: {' | '.join(errors[:_SHOWN])}{more}"
        raise CheckFailed(f"{text}; quantize it for this target, or import it for another --dialect")
    lint(source, kept_batch_norms=_batch_norms(bundle.variant_file("fp32")))
    model = onnx.load(source)
    evidence = {
        "imported": source.name,
        "source_sha256": sha256_of(source),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "warnings": [finding.to_json() for finding in findings],
    }
    variant = f"int8.{rules.name}.imported"
    return (
        variant,
        store_variant(bundle, variant, source.read_bytes(), "int8", evidence, dialect=rules.name, explain=blaming),
        findings,
    )


def quantize_from_cache(bundle: Bundle, cache: Path, dialect_name: str, options: QuantizeOptions) -> tuple[str, Parity]:
    """Add the variant `int8.<dialect>` with the ranges of a TensorRT calibration cache instead of a record's.

    There are no means in a cache, so biases stay as they are.
    """
    rules = find_dialect(dialect_name)
    record = record_from_cache(bundle.variant_file("fp32"), cache)
    options = replace(options, method="minmax", bias_correction=False)
    model = quantize_model(bundle.variant_file("fp32"), record, rules, options)
    evidence = {"trt_cache": cache.name, "source_sha256": sha256_of(cache), "weight_method": options.weight_method}
    variant = f"int8.{rules.name}"
    return variant, store_variant(bundle, variant, model, "int8", evidence, dialect=rules.name, explain=blaming)


def _batch_norms(path: Path) -> int:
    """How many BatchNorms the export kept."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum(node.op_type == "BatchNormalization" for node in nodes)


def _check_interface(bundle: Bundle, source: Path) -> None:
    """The names and shapes that every engine of the bundle has."""
    if not source.is_file():
        raise UsageError(f"--import {source}: expected an ONNX file, found nothing there")
    try:
        graph = onnx.load(source, load_external_data=False).graph
    except Exception as error:  # protobuf's own error types
        raise UsageError(f"--import {source}: expected an ONNX file, found something else ({error})") from error
    manifest, constants = bundle.manifest, {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if [value.name for value in inputs] != [manifest.input.name]:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UsageError(f"--import {source}: expected one input {manifest.input.name}, found {names}")
    shape = tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)[1:]
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT or shape != tuple(manifest.input.shape):
        raise UsageError(f"--import {source}: expected float32 (N, *{manifest.input.shape}), found (N, *{shape})")
    outputs = [value.name for value in graph.output]
    if outputs != [manifest.output]:
        raise UsageError(f"--import {source}: expected one output {manifest.output}, found {', '.join(outputs)}")
