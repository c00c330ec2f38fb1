"""From a float ONNX model and its calibration record to an INT8 one; no images needed."""

from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from resnetrt.bundle import Bundle
from resnetrt.calibration.dialects import Dialect
from resnetrt.calibration.dialects import dialect as find_dialect
from resnetrt.calibration.insert_qdq import insert_activation_pairs, quantize_layers
from resnetrt.calibration.placement import place
from resnetrt.calibration.ranges import QuantParams, affine_uint8, find_range, symmetric_int8
from resnetrt.calibration.record import FILE, CalibrationRecord
from resnetrt.calibration.structure import weighted_layers
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.onnx_parity import measure_parity
from resnetrt.manifest import VariantRecord
from resnetrt.parity import Parity, require


@dataclass(frozen=True)
class QuantizeOptions:
    """`method` and `weight_method` name how ranges of activations and weights are found.

    `reduce_range` keeps weights to 7 bits, for CPUs without VNNI. Without VNNI the 8-bit multiply-add
    saturates at 16 bits; 7-bit weights can't reach that.
    """

    method: str = "mse"
    reduce_range: bool = False
    weight_method: str = "amax"


def load_record(bundle: Bundle) -> CalibrationRecord:
    """The bundle's calibration record. Raises `UsageError` if it has none or one of another model."""
    if FILE not in bundle.manifest.files:
        raise UsageError(f"bundle {bundle.path} has no calibration record; make one with: resnetrt calibrate")
    record = CalibrationRecord.from_bytes(bundle.file(FILE).read_bytes(), str(bundle.path / FILE))
    if record.model_sha256 != bundle.manifest.files[bundle.manifest.variants["fp32"].file].sha256:
        raise UsageError(f"bundle {bundle.path}: its calibration record is of another fp32.onnx; calibrate again")
    return record


def quantize_variant(bundle: Bundle, dialect_name: str, options: QuantizeOptions) -> tuple[str, Parity]:
    """Add the variant `int8.<dialect>` to the bundle; returns its name and its parity with eager on the golden images.

    Raises `UsageError` without a calibration record, `CheckFailed` when the result is outside the INT8 tolerance.
    """
    record = load_record(bundle)
    rules = find_dialect(dialect_name)
    variant = f"int8.{rules.name}"
    name = f"{variant}.onnx"
    model = quantize_model(bundle.variant_file("fp32"), record, rules, options)
    with bundle.edit() as editor:
        path = editor.new_path(name)
        path.write_bytes(model)
        check_quantized(path)
        parity = measure_parity(bundle, path)
        require(parity, "onnxruntime", "int8", f"variant {variant}")
        evidence = {
            "parity": parity.to_json(),
            "method": options.method,
            "weight_method": options.weight_method,
            "reduce_range": options.reduce_range,
            "calibration_sha256": bundle.manifest.files[FILE].sha256,
            "calibration_dataset": record.dataset,
            "calibration_images": len(record.image_hashes),
        }
        editor.manifest.variants[variant] = VariantRecord(name, "int8", dialect=rules.name, evidence=evidence)
    return variant, parity


def quantize_model(
    path: Path,
    record: CalibrationRecord,
    rules: Dialect,
    options: QuantizeOptions,
    keep_float: frozenset[str] = frozenset(),
) -> bytes:
    """The serialised INT8 model of the FP32 one at `path` under a dialect's rules.

    Layers and residual adds whose node names are in `keep_float` stay float and read float inputs.
    """
    model = ir.load(str(path))
    graph = model.graph
    points = place(graph, rules, keep_float)
    params = {name: range_params(record, source, rules, options.method) for name, source in points.items()}
    input_scales = {}
    for layer in weighted_layers(graph):
        source = layer.inputs[0]
        if source is not None and source.name in params and layer.name not in keep_float:
            input_scales[layer.name or ""] = params[source.name].scale
    weight_max = 63 if options.reduce_range else 127
    quantize_layers(graph, input_scales, rules.integer_bias, weight_max, options.weight_method)
    insert_activation_pairs(graph, params, keep_float)
    model.graph.sort()
    return bytes(ir.serde.serialize_model(model).SerializeToString())


def range_params(record: CalibrationRecord, tensor: str, rules: Dialect, method: str) -> QuantParams:
    """Scale and zero point of one tensor under a dialect's rules."""
    statistics = record[tensor]
    if rules.symmetric:
        signed = statistics.minimum < 0
        if signed:  # the grid reaches as far to both sides, and the method must judge that grid
            statistics = replace(statistics, minimum=-statistics.amax, maximum=statistics.amax)
        low, high = find_range(statistics, method, 254 if signed else 127)
        return symmetric_int8(low, high, tensor)
    low, high = find_range(statistics, method, 255)
    return affine_uint8(low, high, tensor)


def check_quantized(path: Path) -> None:
    """Raise `CheckFailed` if the file is not valid ONNX."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"{path.name}: onnx.checker: {str(error).splitlines()[0]}") from error
