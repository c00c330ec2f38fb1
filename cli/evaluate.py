"""`resnetrt evaluate`: accuracy drop and flips on labelled images."""

from pathlib import Path

import click

from resnetrt.cli.options import bundle_argument, json_option
from resnetrt.cli.output import emit_json, note, print_table


@click.command("evaluate")
@bundle_argument
@click.option("--data", required=True, help="Image folder with one subfolder a class, .npz, or an embedded set.")
@click.option("--engine", "engines", multiple=True, help="Engine id; may be repeated. Default: all.")
@click.option("--weights", type=click.Path(path_type=Path), help="The weights file, to run the eager model.")
@click.option("--samples", type=click.IntRange(1), help="Images at most, class-balanced. Default: all.")
@click.option("--allow-overlap", is_flag=True, help="Accept images that calibration has used.")
@json_option
def command(
    bundle: Path,
    data: str,
    engines: tuple[str, ...],
    weights: Path | None,
    samples: int | None,
    allow_overlap: bool,
    as_json: bool,
) -> None:
    """Top-1 of BUNDLE's engines beside the FP32 reference: drop with its interval, flips, SQNR."""
    from resnetrt.benchmarks.evaluate import evaluate_bundle
    from resnetrt.bundle import Bundle

    found = evaluate_bundle(Bundle.open(bundle), data, engines, weights, samples, allow_overlap)
    rows = found.comparison.rows()
    if as_json:
        emit_json({"bundle": str(bundle), "data": data, "reference": found.reference.name, "engines": rows})
        return
    if found.reference.why:
        note(f"reference is {found.reference.name}: {found.reference.why}")
    header = ("engine", "images", "FP32 top-1 %", "top-1 %", "drop pp [95 % interval]", "flips %", "SQNR dB")
    print_table("", header, [
        (
            row["engine"],
            str(row["n"]),
            f"{row['fp32_top1']:.2f}",
            f"{row['top1']:.2f}",
            f"{row['drop_pp']:.2f} [{row['drop_ci_pp'][0]:.2f}, {row['drop_ci_pp'][1]:.2f}]",
            f"{row['flips_percent']:.2f}",
            f"{row['sqnr_db']:.1f}",
        )
        for row in rows
    ])  # fmt: skip
