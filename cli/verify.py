"""`resnetrt verify`: parity of engines with the eager model."""

from pathlib import Path

import click

from resnetrt.cli.options import bundle_argument, json_option
from resnetrt.cli.output import emit_json, note, print_table


@click.command("verify")
@bundle_argument
@click.option("--engine", "engines", multiple=True, help="Engine id; may be repeated. Default: all.")
@click.option("--weights", type=click.Path(path_type=Path), help="The weights file the bundle was exported with.")
@click.option("--data", help="Fresh images for the live check. Default: the golden images.")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="Images of --data.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    engines: tuple[str, ...],
    weights: Path | None,
    data: str | None,
    count: int,
    as_json: bool,
) -> None:
    """Compare BUNDLE's engines with the eager model: stored golden logits, and live eager where torch is there."""
    from resnetrt.benchmarks.verify import verify_bundle
    from resnetrt.bundle import Bundle

    reference, verdicts = verify_bundle(Bundle.open(bundle), engines, weights, data, count)
    failed = any(verdict.problems for verdict in verdicts)
    rows = [verdict.to_json() for verdict in verdicts]
    if as_json:
        emit_json({"bundle": str(bundle), "reference": reference.name, "engines": rows})
    else:
        if reference.why:
            note(f"live reference is {reference.name}: {reference.why}")
        print_table("", ("engine", "live against", "max abs", "SQNR dB", "top-1 agreement", "verdict"), [
            (row["engine"], reference.name, *_numbers(row["live"]), row["verdict"]) for row in rows
        ])  # fmt: skip
        for row in rows:
            for problem in row["problems"]:
                note(f"{row['engine']}: {problem}")
    if failed:
        ctx.exit(1)


def _numbers(live: dict[str, float] | None) -> tuple[str, str, str]:
    if live is None:
        return "-", "-", "-"
    return f"{live['max_abs']:.1e}", f"{live['sqnr_db']:.1f}", f"{live['top1_agreement']:.1%}"
