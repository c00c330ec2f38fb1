"""`resnetrt quantize`: INT8 variants from the calibration record."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnetrt.cli.options import NEW_PATH, WORDS, bundle_argument, input_option, json_option, quantize_options
from resnetrt.cli.output import emit_json
from resnetrt.errors import UsageError
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.bundle import Bundle


@click.command("quantize")
@bundle_argument
@click.option(
    "--dialect",
    "dialects",
    type=WORDS,
    default="cpu,onnxruntime,tensorrt",
    show_default=True,
    help="Targets' Q/DQ rules.",
)
@click.option(
    "--learn-rounding", help="The calibration images again: choose for each weight whether it is rounded up or down."
)
@quantize_options
@input_option("uint8: camera frames (N, H, W, C), preprocessing baked in, pixels exact; adds fp32.uint8 too.")
@click.option(
    "--from-trt-cache",
    type=click.Path(path_type=Path),
    help="Ranges from a TensorRT calibration cache, not the record.",
)
@click.option(
    "--import",
    "import_file",
    type=click.Path(path_type=Path),
    help="Lint and verify another tool's Q/DQ ONNX for --dialect and store it as int8.<dialect>.imported.",
)
@click.option("--explain", is_flag=True, help="Print the ten layers that lose most of their output.")
@click.option("--explain-plot", type=NEW_PATH, help="Draw all layers into this .svg or .png file.")
@click.option("--overwrite", is_flag=True, help="Replace variants whose rounding was learned.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    bundle: Path,
    method: str,
    weights_method: str,
    dialects: tuple[str, ...],
    no_bias_correction: bool,
    input_type: str,
    reduce_range: bool | None,
    learn_rounding: str | None,
    rounding_budget: float,
    from_trt_cache: Path | None,
    import_file: Path | None,
    explain: bool,
    explain_plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Add INT8 variants to BUNDLE, checked against eager on the golden images."""
    from resnetrt.bundle import Bundle
    from resnetrt.calibration.graph.dialects import dialect as find_dialect
    from resnetrt.calibration.quantize.learn_rounding import Learning
    from resnetrt.calibration.quantize.quantize import QuantizeOptions, add_uint8_variant, load_record
    from resnetrt.cli.explaining import Explanation, check_plot
    from resnetrt.cli.variant_sources import choose_source
    from resnetrt.export.cast.recipes import UINT8

    check_plot(explain_plot, dialects)
    for dialect in dialects:
        find_dialect(dialect)
    options = QuantizeOptions(method, reduce_range, weights_method, not no_bias_correction, input_type)
    source = choose_source(ctx, from_trt_cache, import_file, dialects)
    opened, variants = Bundle.open(bundle), []
    learning = None
    if learn_rounding is not None:
        record = load_record(opened)
        learning = Learning.of(learn_rounding, opened.manifest.preprocessing, record.image_hashes, rounding_budget)
        options = replace(options, learning=learning)
    engines = set(opened.manifest.engines)
    if learning is None and not overwrite:
        _check_learned(opened, [f"int8.{dialect}{UINT8 if input_type == 'uint8' else ''}" for dialect in dialects])
    if input_type == "uint8":
        add_uint8_variant(opened)
    for dialect in dialects:
        variant, parity = source.make(opened, dialect, options)
        if not as_json:
            ranges = source.ranges or f"method {method}"
            click.echo(f"{variant}: SQNR {parity.sqnr_db:.1f} dB on {opened.manifest.golden_words}, {ranges}")
        if reduce_range is None and source.ranges != "imported" and options.reduces_range(find_dialect(dialect)):
            show(f"{variant}: 7-bit weights, as this CPU has no INT8 dot product; for one that has: --full-range")
        if learning is not None and learning.last is not None and learning.last.skipped:
            count, total = len(learning.last.skipped), len(learning.last.skipped) + len(learning.last.learned)
            show(f"{variant}: {count} of {total} layers are rounded to nearest; more time: --rounding-budget")
        explanation = Explanation.of(opened, variant)
        explanation.warn()
        used = None if source.ranges else method
        row = {"variant": variant, "dialect": dialect, "method": used, "parity": parity.to_json()}
        variants.append(row | explanation.to_json(explain))
        if explain and not as_json:
            explanation.print_worst()
        if explain_plot is not None:
            explanation.draw(explain_plot)
    dropped = sorted(engines - opened.manifest.engines.keys())
    if as_json:
        emit_json({"bundle": str(bundle), "variants": variants, "dropped_engines": dropped})
    elif dropped:
        click.echo(f"dropped engines of older variants, compile them again: {', '.join(dropped)}")


def _check_learned(bundle: "Bundle", names: Sequence[str]) -> None:
    """Raise `UsageError` if one of these variants took minutes to make."""
    for name in names:
        made = bundle.manifest.variants.get(name)
        if made is not None and isinstance(made.evidence.get("rounding"), dict):
            raise UsageError(
                f"bundle {bundle.path}: this would replace the learned rounding of variant {name}; add --overwrite, or "
                "--learn-rounding to learn again"
            )
