"""Where `quantize` takes a variant from: the calibration record, a TensorRT cache, or another tool's file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from resnetrt.bundle import Bundle
from resnetrt.calibration.import_qdq import import_variant, quantize_from_cache
from resnetrt.calibration.quantize import QuantizeOptions, quantize_variant
from resnetrt.cli.output import note
from resnetrt.errors import UsageError
from resnetrt.parity import Parity

Maker = Callable[[Bundle, str, QuantizeOptions], tuple[str, Parity]]


def choose_maker(cache: Path | None, imported: Path | None, dialects: Sequence[str], input_type: str) -> Maker:
    """The function that adds a variant of a dialect. Raises `UsageError` for options that exclude each other."""
    if cache is None and imported is None:
        return quantize_variant
    option = "--import" if imported is not None else "--from-trt-cache"
    if cache is not None and imported is not None:
        raise UsageError("--import and --from-trt-cache exclude each other; choose one")
    if len(dialects) != 1:
        raise UsageError(f"{option}: expected one dialect, found {len(dialects)}; choose with --dialect, as tensorrt")
    if input_type != "float32":
        raise UsageError(f"{option}: expected --input float32, found {input_type}")
    if imported is not None:
        return _importer(imported)
    assert cache is not None
    return lambda bundle, dialect, options: quantize_from_cache(bundle, cache, dialect, options)


def _importer(source: Path) -> Maker:
    """What the file itself decides (range methods and the like) is ignored; linter warnings go to stderr."""

    def make(bundle: Bundle, dialect: str, _options: QuantizeOptions) -> tuple[str, Parity]:
        variant, parity, findings = import_variant(bundle, source, dialect)
        for finding in findings:
            note(f"warning: {variant}: {finding}")
        return variant, parity

    return make
