"""FP16, BF16 and FP8 variants, and INT8 over an FP16 carrier; float32 inputs and outputs are kept.

Precision lives in the ONNX file: TensorRT 11 and TensorRT-RTX have no flags for it. What was checked, and which layers
stayed FP32 and why, is stored in the variant's evidence. In variants that take uint8 frames, the preprocessing stays
FP32: its result is rounded once, as if the preprocessing ran on the CPU.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from resnetrt.bundle import CALIBRATE, Bundle
from resnetrt.calibration_record import recorded_amax
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.cast.fit_scales import fit_scales
from resnetrt.export.cast.fp8 import insert_fp8
from resnetrt.export.cast.graph import cast_graph, load_typed
from resnetrt.export.cast.half_range import layers_out_of_range
from resnetrt.export.cast.half_types import HALF_TYPES, HalfType
from resnetrt.export.cast.recipes import RECIPES, UINT8, CastRecipe, recipe_for, record_of
from resnetrt.export.cast.rounded import write_rounded
from resnetrt.export.variants.nodes import serialised
from resnetrt.export.variants.parity import difference, golden_outputs
from resnetrt.export.variants.qdq import WEIGHTED
from resnetrt.export.variants.store import store_variant, unexplained
from resnetrt.golden import Golden
from resnetrt.parity import Parity
from resnetrt.preprocess import FloatArray

NOT_CHECKED = f"not checked: the bundle has no calibration record; make one with: {CALIBRATE}"

_UNKNOWN_RANGE = f"; without a calibration record nobody knows which layers must stay FP32: make one with: {CALIBRATE}"
_PREPROCESSING = "preprocessing: pixels are rounded once, behind it"
_AS_IT_IS = "parity_onnxruntime"
_NOT_RUN = {
    "bf16": "not checked: ONNX Runtime has no BF16 convolution for the CPU",
    # measured with 1.32.0 on two ResNets: 21 dB without graph optimization, -3.6 dB and 0.1 dB with it
    "fp8": "not checked: ONNX Runtime's graph optimization breaks FP8 Q/DQ on the CPU",
}


def add_cast_variant(bundle: Bundle, precision: str, input_type: str = "float32") -> tuple[str, Parity]:
    """Add the variant of `precision` in `RECIPES` to the bundle; returns its name and its parity with eager.

    With `input_type` `uint8` it takes frames, as its source does, and its name ends with `.uint8`.
    Parity is that of `resnetrt.export.cast.rounded`, on the golden images. Raises `UsageError` if what it is made from
    is not there, `CheckFailed` when the result is outside the tolerance of the precision; then nothing is written.
    """
    if precision not in RECIPES:
        raise UsageError.unknown("precision to cast to", precision, RECIPES)
    recipe = recipe_for(precision, input_type)
    _check_source(bundle, recipe, precision)
    amax = recorded_amax(bundle)
    model, kept = cast_model(bundle, recipe, precision, amax)
    record_sha256 = record_of(bundle)
    evidence = {
        "parity_method": f"ONNX Runtime, float32 with every tensor rounded to {recipe.half}",
        "kept_fp32": kept,
        "record_sha256": record_sha256,
        "activations": NOT_CHECKED if amax is None else f"checked: {len(amax)} tensors of the calibration record",
        "source": recipe.source,
        "source_sha256": bundle.manifest.files[bundle.manifest.variants[recipe.source].file].sha256,
    }
    if precision == "fp8":  # its ranges are the record's, as those of INT8 are; its images may not judge it
        evidence["calibration_sha256"] = record_sha256
    if precision in _NOT_RUN:
        evidence[_AS_IT_IS] = _NOT_RUN[precision]
    parity = store_variant(
        bundle,
        recipe.variant,
        serialised(model),
        precision,
        evidence,
        input_type=input_type,
        dialect=recipe.dialect,
        run=rounded_outputs,
        also={} if precision in _NOT_RUN else {_AS_IT_IS: golden_outputs},
        explain=_without_record if amax is None else unexplained,
    )
    return recipe.variant, parity


@contextmanager
def _without_record(_bundle: Bundle, _path: Path) -> Iterator[None]:
    """Say in a `CheckFailed` of the block what would help."""
    try:
        yield
    except CheckFailed as error:
        raise CheckFailed(f"{error}{_UNKNOWN_RANGE}") from error


def cast_model(
    bundle: Bundle, recipe: CastRecipe, precision: str, amax: Mapping[str, float] | None
) -> tuple[ir.Model, dict[str, str]]:
    """The model of a recipe, and the layers that stayed FP32 with the reasons."""
    half = HALF_TYPES[recipe.half]
    if precision == "fp8":
        model = _load(bundle, "fp32", half.least_opset)
        placement = load_typed(str(bundle.variant_file(recipe.source)), half.least_opset)
        insert_fp8(model.graph, placement.graph, amax or {})
    else:
        model = _load(bundle, recipe.source, half.least_opset)
    kept = cast_to_half(model.graph, half, amax or {}, fit=precision == "int8")
    return model, kept


def _load(bundle: Bundle, variant: str, least_opset: int) -> ir.Model:
    """A variant at `least_opset` or later. Raises `CheckFailed` if it is another network there."""
    path = bundle.variant_file(variant)
    model = load_typed(str(path), least_opset)
    if model.opset_imports[""] != ir.load(str(path)).opset_imports[""]:
        frames, expected = Golden.of(bundle).frames, golden_outputs(bundle, path)
        takes_frames = bundle.manifest.variants[variant].input == "uint8"
        batch = frames if takes_frames else bundle.manifest.preprocessing.normalize(frames)
        if wrong := difference(expected, serialised(model), batch):
            raise CheckFailed(f"variant {variant}: at opset {least_opset} it computes something else ({wrong})")
    return model


def cast_to_half(graph: ir.Graph, half: HalfType, amax: Mapping[str, float], fit: bool = False) -> dict[str, str]:
    """Retype `graph` to `half` but for the layers that do not fit, which are returned with the reasons.

    With `fit`, scales of what is retyped are made exact first; those of layers that stay FP32 need not be.
    """
    kept = layers_out_of_range(graph, half, amax) | _preprocessing(graph)
    if fit:
        fit_scales(graph, kept)
    cast_graph(graph, half, kept)
    graph.sort()
    return kept


def _preprocessing(graph: ir.Graph) -> dict[str, str]:
    """The nodes between uint8 frames and the first layer or quantizer, with the reason why they stay FP32."""
    ahead = {value.name for value in graph.inputs if value.dtype == ir.DataType.UINT8}
    kept = {}
    for node in graph:
        if node.op_type in (*WEIGHTED, "QuantizeLinear") or ahead.isdisjoint(
            value.name for value in node.inputs if value is not None
        ):
            continue
        kept[node.name or ""] = _PREPROCESSING
        ahead.update(value.name for value in node.outputs)
    return kept


def rounded_outputs(bundle: Bundle, path: Path) -> FloatArray:
    """What the 16-bit ONNX file at `path` says of the golden images, by its float32 twin that rounds every tensor."""
    with tempfile.TemporaryDirectory(prefix="resnetrt-") as folder:
        twin = Path(folder) / "rounded.onnx"
        write_rounded(path, twin)
        return golden_outputs(bundle, twin)


def _check_source(bundle: Bundle, recipe: CastRecipe, precision: str) -> None:
    frames = recipe.source.endswith(UINT8)
    if precision == "fp8" and frames:
        raise UsageError(f"bundle {bundle.path}: fp8 is not made for uint8 frames; choose fp16, bf16 or int8")
    if recipe.source not in bundle.manifest.variants:
        calibrate = "" if record_of(bundle) else f"{CALIBRATE}, then "
        raise UsageError(
            f"bundle {bundle.path}: {precision} is made from the variant {recipe.source}, which it lacks; "
            f"make it with: {calibrate}resnetrt quantize BUNDLE --dialect tensorrt{' --input uint8' * frames}"
        )
    if precision == "fp8" and recorded_amax(bundle) is None:
        raise UsageError(f"bundle {bundle.path}: fp8 needs its calibration record; make one with: {CALIBRATE}")
