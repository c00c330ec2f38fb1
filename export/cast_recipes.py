"""Which 16-bit and 8-bit variants there are, and what each is made from; light, so that compilers can ask."""

from dataclasses import dataclass, replace

from resnetrt.bundle import Bundle

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


def recipe_for(precision: str, input_type: str = "float32") -> CastRecipe:
    """The recipe of `precision`; with `input_type` `uint8` from the source that takes frames to a variant that does."""
    recipe = RECIPES[precision]
    if input_type != "uint8":
        return recipe
    return replace(recipe, variant=recipe.variant + UINT8, source=recipe.source + UINT8)


def is_current(bundle: Bundle, precision: str, input_type: str = "float32") -> bool:
    """Whether the bundle has the cast variant of `precision`, not made from an older source than it has now."""
    recipe = recipe_for(precision, input_type)
    variants = bundle.manifest.variants
    if recipe.variant not in variants:
        return False
    source = variants.get(recipe.source)
    made_from = variants[recipe.variant].evidence.get("source_sha256")
    return source is None or made_from in (None, bundle.manifest.files[source.file].sha256)
