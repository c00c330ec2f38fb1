"""Where the ranges of a variant come from: the calibration record, a TensorRT cache, or another tool's file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from resnetrt.bundle import Bundle
from resnetrt.calibration.imports.import_qdq import import_variant, quantize_from_cache
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.cli.options import given_options
from resnetrt.errors import UsageError
from resnetrt.parity import Parity
from resnetrt.progress import show

Maker = Callable[[Bundle, str, QuantizeOptions], tuple[str, Parity]]
# options that apply to the calibration record only, not to a cache or a file
_NOT_FOR_CACHES = ("method", "no_bias_correction", "input_type", "learn_rounding")
_NOT_FOR_FILES = (*_NOT_FOR_CACHES, "weights_method", "reduce_range")


@dataclass(frozen=True)
class Source:
    """How a variant of a dialect is added, and the source of its ranges if that is not the record."""

    make: Maker
    ranges: str = ""


def choose_source(ctx: click.Context, cache: Path | None, imported: Path | None, dialects: Sequence[str]) -> Source:
    """The source of the command's variants. Raises `UsageError` for options that exclude each other."""
    if cache is None and imported is None:
        return Source(quantize_variant)
    option = "--import" if imported is not None else "--from-trt-cache"
    if cache is not None and imported is not None:
        raise UsageError("--import and --from-trt-cache exclude each other; choose one")
    if len(dialects) != 1:
        raise UsageError(f"{option}: expected one dialect, found {len(dialects)}; choose with --dialect, as tensorrt")
    for given in given_options(ctx, *(_NOT_FOR_CACHES if imported is None else _NOT_FOR_FILES)):
        raise UsageError(f"{option} decides that; leave out {given}")
    if imported is not None:
        return Source(_importer(imported), "imported")
    assert cache is not None
    return Source(partial(_from_cache, cache), f"ranges of {cache.name}")


def _from_cache(cache: Path, bundle: Bundle, dialect: str, options: QuantizeOptions) -> tuple[str, Parity]:
    return quantize_from_cache(bundle, cache, dialect, options)


def _importer(source: Path) -> Maker:
    """A function that imports a file and prints the linter's warnings on stderr."""

    def make(bundle: Bundle, dialect: str, _options: QuantizeOptions) -> tuple[str, Parity]:
        variant, parity, findings = import_variant(bundle, source, dialect)
        for finding in findings:
            show(f"warning: {variant}: {finding}")
        return variant, parity

    return make
