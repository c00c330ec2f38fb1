"""From a float ONNX model and its calibration record to an INT8 one; no images needed."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from resnetrt.bundle import CALIBRATE, Bundle
from resnetrt.calibration.explain.suspects import blaming
from resnetrt.calibration.graph.dialects import METADATA, Dialect
from resnetrt.calibration.graph.dialects import dialect as find_dialect
from resnetrt.calibration.graph.structure import weighted_layers
from resnetrt.calibration.observe.equalize import changed_by, equalize, note_factors
from resnetrt.calibration.observe.ranges import QuantParams, affine_uint8, check_method, find_range, symmetric_int8
from resnetrt.calibration.quantize.bake import PIXELS, bake_float, bake_integer, only_convolution
from resnetrt.calibration.quantize.insert_qdq import LayerInput, LayerOptions, insert_activation_pairs, quantize_layers
from resnetrt.calibration.quantize.learn_rounding import Learning
from resnetrt.calibration.quantize.normalizations import guard_normalizations
from resnetrt.calibration.quantize.placement import Params, place, without_misread_integers
from resnetrt.calibration.quantize.round_weights import check_weight_method
from resnetrt.calibration_record import FILE, CalibrationRecord, require_same_model
from resnetrt.errors import UsageError
from resnetrt.export.cast.recipes import UINT8
from resnetrt.export.variants.nodes import serialised
from resnetrt.export.variants.parity import difference, fp32_outputs
from resnetrt.export.variants.store import store_variant
from resnetrt.golden import Golden
from resnetrt.machine import read_cpu
from resnetrt.parity import Parity
from resnetrt.preprocess import Preprocessing
from resnetrt.progress import working

_log = logging.getLogger("resnetrt.calibration")


@dataclass(frozen=True)
class QuantizeOptions:
    """`method` and `weight_method` name how ranges of activations and weights are found.

    `reduce_range` keeps weights to 7 bits, for CPUs without an INT8 dot product: their multiply-add saturates at 16
    bits, which 7-bit weights can't reach (8-bit ones: 18 instead of 36 dB on a ResNet-20, Xeon without VNNI). None does
    so in the CPU dialects if this machine's CPU lacks the dot product. `bias_correction` takes back the mean error of
    the rounded weights. `input` is `float32`, or `uint8` for frames `(N, H, W, C)` with the preprocessing baked in.
    `learning` rounds weights by what it does to the outputs (`learn_rounding`), where there is time for it.
    Raises `UsageError` for unknown methods or another `input`.
    """

    method: str = "mse"
    reduce_range: bool | None = None
    weight_method: str = "amax"
    bias_correction: bool = True
    input: str = "float32"
    learning: Learning | None = None

    def __post_init__(self) -> None:
        check_method(self.method)
        check_weight_method(self.weight_method)
        if self.input not in ("float32", "uint8"):
            raise UsageError(f"quantize input: expected float32 or uint8, found {self.input!r}")

    def reduces_range(self, rules: Dialect) -> bool:
        """Whether weights are kept to 7 bits under `rules`."""
        if self.reduce_range is None:
            return rules.host and read_cpu().int8_dot_product is False
        return self.reduce_range


def load_record(bundle: Bundle) -> CalibrationRecord:
    """The bundle's calibration record.

    Raises `UsageError` if the bundle has no record, or one of another model, or one whose equalization changes the
    network, which older versions accepted.
    """
    record = CalibrationRecord.of(bundle)
    if record is None:
        raise UsageError(f"bundle {bundle.path} has no calibration record; make one with: {CALIBRATE}")
    require_same_model(bundle, record.model_sha256)
    golden, path = Golden.of(bundle), bundle.variant_file("fp32")
    images = bundle.manifest.preprocessing.normalize(golden.frames)
    if wrong := changed_by(path, record.equalization, fp32_outputs(bundle), images, golden.noise):
        where = f"bundle {bundle.path}: the equalization of its calibration record"
        raise UsageError(f"{where} changes the network ({wrong}); calibrate again")
    return record


def quantize_variant(bundle: Bundle, dialect_name: str, options: QuantizeOptions) -> tuple[str, Parity]:
    """Add the variant `int8.<dialect>` (or `int8.<dialect>.uint8`) to the bundle; returns its name and golden parity.

    Raises `UsageError` without a calibration record, `CheckFailed` when the result is outside the INT8 tolerance.
    """
    record = load_record(bundle)
    rules = find_dialect(dialect_name)
    variant = f"int8.{rules.name}" + (UINT8 if options.input == "uint8" else "")
    with working(f"quantizing {variant}"):
        prepared = _prepare_checked(bundle, record, rules, options)
        model = _finish(prepared, rules, options)
    evidence = {
        "method": options.method,
        "weight_method": options.weight_method,
        "reduce_range": options.reduces_range(rules),
        "bias_correction": options.bias_correction,
        "equalized": bool(record.equalization),
        "rounding": _rounding(options.learning),
        "calibration_sha256": bundle.manifest.files[FILE].sha256,
        "calibration_dataset": record.dataset,
        "calibration_images": len(record.image_hashes),
    }
    if options.input == "uint8":
        evidence["pixels"] = "exact" if prepared.exact_pixels else "normalised in float, then quantized"
    parity = store_variant(
        bundle, variant, model, "int8", evidence, input_type=options.input, dialect=rules.name, explain=blaming
    )
    return variant, parity


def _rounding(learning: Learning | None) -> str | dict[str, int]:
    """For the evidence: how the weights of the last model were rounded."""
    if learning is None or learning.last is None:
        return "nearest"
    return {"learned_layers": len(learning.last.learned), "nearest_layers": len(learning.last.skipped)}


@dataclass(frozen=True)
class _Prepared:
    """A float graph that computes what the FP32 one does, equalized and with its preprocessing, and what quantizes it.

    `params` of values by name, `inputs` of layers by name; what is in `keep_float` stays float. With `exact_pixels` the
    pixels enter the first convolution as the integers that they are.
    """

    model: ir.Model
    params: Params
    inputs: dict[str, LayerInput]
    keep_float: frozenset[str]
    exact_pixels: bool = False


def quantize_model(
    path: Path,
    record: CalibrationRecord,
    rules: Dialect,
    options: QuantizeOptions,
    keep_float: frozenset[str] = frozenset(),
    preprocessing: Preprocessing | None = None,
) -> bytes:
    """The serialised INT8 model of the FP32 one at `path` under a dialect's rules.

    Layers and residual adds whose node names are in `keep_float` stay float and read float inputs. With
    `options.input` `uint8`, `preprocessing` is baked in and the pixels enter the first convolution exactly.
    """
    return _finish(_prepare(path, record, rules, options, keep_float, preprocessing), rules, options)


def _prepare_checked(bundle: Bundle, record: CalibrationRecord, rules: Dialect, options: QuantizeOptions) -> _Prepared:
    """The float graph of a bundle's variant; if exact pixels would change the network, they are normalised instead.

    `load_record` has checked the equalization.
    """
    path, preprocessing = bundle.variant_file("fp32"), bundle.manifest.preprocessing
    prepared = _prepare(path, record, rules, options, preprocessing=preprocessing)
    if not prepared.exact_pixels:
        return prepared
    golden = Golden.of(bundle)
    if wrong := difference(fp32_outputs(bundle), serialised(prepared.model), golden.frames, golden.noise):
        _log.warning("pixels are not taken as integers: the network would compute something else (%s)", wrong)
        return _prepare(path, record, rules, options, preprocessing=preprocessing, exact_pixels=False)
    return prepared


def _prepare(
    path: Path,
    record: CalibrationRecord,
    rules: Dialect,
    options: QuantizeOptions,
    keep_float: frozenset[str] = frozenset(),
    preprocessing: Preprocessing | None = None,
    exact_pixels: bool = True,
) -> _Prepared:
    model = ir.load(str(path))
    graph = model.graph
    equalize(graph, record.equalization)
    note_factors(model, record.equalization)
    model.metadata_props[METADATA] = rules.name
    points = place(graph, rules, keep_float)
    params = {name: range_params(record, source, rules, options.method) for name, source in points.items()}
    if not rules.shifted_integers:
        params, floats = without_misread_integers(graph, params)
        keep_float |= floats
    if not rules.normalized_integers:
        guard_normalizations(graph)
    inputs = _layer_inputs(graph, params, record, keep_float)
    if options.input != "uint8":
        return _Prepared(model, params, inputs, keep_float)
    assert preprocessing is not None
    name = graph.inputs[0].name or ""
    if not exact_pixels or any(use.node.name in keep_float for use in graph.inputs[0].uses()):
        normalised = bake_float(graph, preprocessing)
        params = {normalised if point == name else point: chosen for point, chosen in params.items()}
        return _Prepared(model, params, inputs, keep_float)
    params = {point: chosen for point, chosen in params.items() if point != name}
    only_convolution(graph.inputs[0])  # before the record is asked for the means of this convolution's input
    baked = bake_integer(graph, preprocessing, rules, record[name].channel_mean)
    pixels = {} if baked.pair is None else {PIXELS: baked.pair}
    return _Prepared(model, pixels | params, inputs | {baked.layer: baked.source}, keep_float, exact_pixels=True)


def _finish(prepared: _Prepared, rules: Dialect, options: QuantizeOptions) -> bytes:
    """Quantize a prepared graph, which is used up, and serialise it."""
    graph = prepared.model.graph
    frames_in = options.input == "uint8"
    rounding = None if options.learning is None else options.learning.start(prepared.model, frames_in)
    limit = 63 if options.reduces_range(rules) else 127
    layer_options = LayerOptions(rules.integer_bias, options.bias_correction, limit, options.weight_method, rounding)
    quantize_layers(graph, prepared.inputs, layer_options)
    insert_activation_pairs(graph, prepared.params, prepared.keep_float)
    graph.sort()
    return serialised(prepared.model)


def _layer_inputs(
    graph: ir.Graph, params: Params, record: CalibrationRecord, keep_float: frozenset[str]
) -> dict[str, LayerInput]:
    """Scale and channel means of the quantized input of every layer that becomes integer."""
    inputs = {}
    for layer in weighted_layers(graph):
        source = layer.inputs[0]
        if source is not None and source.name in params and layer.name not in keep_float:
            inputs[layer.name or ""] = LayerInput(params[source.name].scale, record[source.name].channel_mean)
    return inputs


def add_uint8_variant(bundle: Bundle) -> tuple[str, Parity]:
    """Add `fp32.uint8`: the FP32 model with its preprocessing in front; returns its name and golden parity.

    Raises `CheckFailed` when it is outside the FP32 tolerance.
    """
    variant = "fp32" + UINT8
    model = ir.load(str(bundle.variant_file("fp32")))
    bake_float(model.graph, bundle.manifest.preprocessing)
    return variant, store_variant(bundle, variant, serialised(model), "fp32", {}, input_type="uint8")


def range_params(record: CalibrationRecord, tensor: str, rules: Dialect, method: str) -> QuantParams:
    """Scale and zero point of one tensor under a dialect's rules."""
    statistics = record[tensor]
    if statistics.amax == 0:  # a branch that adds nothing yet; any grid holds its zeros
        return QuantParams(1.0, 0, "int8" if rules.symmetric else "uint8")
    if rules.symmetric:
        signed = statistics.minimum < 0
        if signed:  # the grid is symmetric, and the method must judge that grid
            statistics = replace(statistics, minimum=-statistics.amax, maximum=statistics.amax)
        low, high = find_range(statistics, method, 254 if signed else 127)
        return symmetric_int8(low, high, tensor)
    low, high = find_range(statistics, method, 255)
    return affine_uint8(low, high, tensor)
