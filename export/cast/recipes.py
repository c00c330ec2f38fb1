"""Which 16-bit and 8-bit variants there are, and what each is made from; light, so that compilers can ask."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from resnetrt.bundle import Bundle
from resnetrt.calibration_record import FILE
from resnetrt.errors import UsageError

UINT8 = ".uint8"  # ends the name of a variant that takes uint8 frames


@dataclass(frozen=True)
class CastRecipe:
    """How a variant is made: from `source`, over the 16-bit type `half`, for the `dialect` of one family of engines."""

    variant: str
    source: str
    half: str
    dialect: str | None = None


# by precision; INT8 over FP32 would leave everything between the INT8 layers in FP32, so TensorRT gets it over FP16
RECIPES = {
    "fp16": CastRecipe("fp16", "fp32", "fp16"),
    "bf16": CastRecipe("bf16", "fp32", "bf16"),
    "int8": CastRecipe("int8.tensorrt.fp16", "int8.tensorrt", "fp16", "tensorrt"),
    "fp8": CastRecipe("fp8.tensorrt", "int8.tensorrt", "fp16", "tensorrt"),
}


PRECISIONS = ("fp32", *RECIPES)


def check_precisions(wanted: Iterable[str]) -> None:
    """Raise `UsageError` for the first of `wanted` that is no precision of a variant."""
    for precision in wanted:
        if precision not in PRECISIONS:
            raise UsageError.unknown("precision", precision, PRECISIONS)


def recipe_for(precision: str, input_type: str = "float32") -> CastRecipe:
    """The recipe of `precision`; with `input_type` `uint8` from the source that takes frames to a variant that does."""
    recipe = RECIPES[precision]
    if input_type != "uint8":
        return recipe
    return replace(recipe, variant=recipe.variant + UINT8, source=recipe.source + UINT8)


def is_current(bundle: Bundle, precision: str, input_type: str = "float32") -> bool:
    """Whether the bundle has the cast variant of `precision`, made from its present source by its present record.

    A bundle for devices has no record, and perhaps no source: nothing there can be newer than the variant.
    """
    recipe = recipe_for(precision, input_type)
    variants = bundle.manifest.variants
    if recipe.variant not in variants:
        return False
    source, evidence, own = variants.get(recipe.source), variants[recipe.variant].evidence, record_of(bundle)
    if own is not None and evidence.get("record_sha256", own) != own:
        return False
    return source is None or evidence.get("source_sha256") in (None, bundle.manifest.files[source.file].sha256)


def record_of(bundle: Bundle) -> str | None:
    """Hash of the bundle's calibration record, which says what stays FP32; None without one."""
    entry = bundle.manifest.files.get(FILE)
    return None if entry is None else entry.sha256
