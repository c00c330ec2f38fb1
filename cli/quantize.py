"""`resnetrt quantize`: INT8 variants from the calibration record."""

from pathlib import Path

import click

from resnetrt.cli.options import WORDS, bundle_argument, json_option
from resnetrt.cli.output import emit_json


@click.command("quantize")
@bundle_argument
@click.option(
    "--method", default="mse", show_default=True, help="Ranges: minmax, moving_average, percentile, entropy or mse."
)
@click.option("--weights-method", default="amax", show_default=True, help="Weights' ranges per channel: amax or mse.")
@click.option(
    "--dialect", "dialects", type=WORDS, default="cpu,tensorrt", show_default=True, help="Targets' Q/DQ rules."
)
@click.option("--reduce-range", is_flag=True, help="7-bit weights, for CPUs without VNNI.")
@json_option
def command(
    bundle: Path, method: str, weights_method: str, dialects: tuple[str, ...], reduce_range: bool, as_json: bool
) -> None:
    """Add INT8 variants to BUNDLE, checked against eager on the golden images."""
    from resnetrt.bundle import Bundle
    from resnetrt.calibration.quantize import QuantizeOptions, quantize_variant

    options = QuantizeOptions(method, reduce_range, weights_method)
    opened, variants = Bundle.open(bundle), []
    for dialect in dialects:
        variant, parity = quantize_variant(opened, dialect, options)
        variants.append({"variant": variant, "dialect": dialect, "method": method, "parity": parity.to_json()})
        if not as_json:
            click.echo(f"{variant}: SQNR {parity.sqnr_db:.1f} dB on {parity.n} golden images, method {method}")
    if as_json:
        emit_json({"bundle": str(bundle), "variants": variants})
