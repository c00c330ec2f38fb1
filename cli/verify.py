"""`resnetrt verify`: parity of engines with the eager model."""

from pathlib import Path
from typing import Any

import click

from resnetrt.cli.options import bundle_argument, device_option, given_options, json_option
from resnetrt.cli.output import emit_json, print_table
from resnetrt.errors import UsageError
from resnetrt.progress import show, working


@click.command("verify")
@bundle_argument
@click.option("--engine", "engines", multiple=True, help="Engine id; may be repeated. Default: all.")
@click.option("--weights", type=click.Path(path_type=Path), help="The weights file the bundle was exported with.")
@click.option("--data", help="Fresh images for the live check. Default: the golden images.")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="Images of --data.")
@click.option("--bisect", "bisecting", is_flag=True, help="Name the first block that diverges; --engine or a variant.")
@device_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    engines: tuple[str, ...],
    weights: Path | None,
    data: str | None,
    count: int,
    bisecting: bool,
    as_json: bool,
) -> None:
    """Compare BUNDLE's engines with the eager model: stored golden logits, and live eager where torch is there."""
    from resnetrt.benchmarks.verify.parity import verify_bundle
    from resnetrt.bundle import Bundle

    if bisecting:
        if given_options(ctx, "data", "count"):
            raise UsageError("--bisect: expected no --data and no --count, found one; it runs on the golden images")
        _bisect(ctx, bundle, engines, weights, as_json)
        return
    opened = Bundle.open(bundle)
    with working("verifying"):
        reference, verdicts = verify_bundle(opened, engines, weights, data, count)
    failed = any(verdict.problems for verdict in verdicts)
    rows = [verdict.to_json() for verdict in verdicts]
    if as_json:
        emit_json({"bundle": str(bundle), "reference": reference.name, "engines": rows})
    else:
        if reference.why:
            show(f"compared with {reference.name}: {reference.why}")
        images = opened.manifest.golden_words if data is None else f"images of {data}"
        print_table(f"Parity on {images}", ("engine", "against", "max abs", "SQNR dB", "top-1 agreement", "verdict"), [
            (row["engine"], reference.name, *_numbers(row["live"]), row["verdict"]) for row in rows
        ])  # fmt: skip
        for row in rows:
            for problem in (*row["problems"], *filter(None, [row["not_run"]])):
                show(f"{row['engine']}: {problem}")
    if failed:
        ctx.exit(1)


def _numbers(live: dict[str, float] | None) -> tuple[str, str, str]:
    if live is None:
        return "-", "-", "-"
    return f"{live['max_abs']:.1e}", f"{live['sqnr_db']:.1f}", f"{live['top1_agreement']:.1%}"


def _bisect(ctx: click.Context, path: Path, engines: tuple[str, ...], weights: Path | None, as_json: bool) -> None:
    from resnetrt.benchmarks.verify.bisect import bisect
    from resnetrt.bundle import Bundle

    bundle = Bundle.open(path)
    names = engines or tuple(sorted(bundle.manifest.engines or bundle.manifest.variants))
    rows = []
    for name in names:
        with working(f"comparing {name} block by block"):
            rows.append(bisect(bundle, name, weights).to_json())
    if as_json:
        emit_json({"bundle": str(path), "engines": rows})
    else:
        for row in rows:
            _print_blocks(row)
    if any(row["first"] for row in rows):
        ctx.exit(1)


def _print_blocks(row: dict[str, Any]) -> None:
    header = ("block", "SQNR dB", "at least", "max abs", "max error in steps", "rms in steps", "tolerance")
    print_table(f"{row['engine']} against {row['reference']}", header, [
        (
            item["block"],
            *(_number(item[key], ".1f") for key in ("sqnr_db", "limit_db")),
            _number(item["max_abs"], ".2e"),
            *(_number(item[key], ".2f") for key in ("max_steps", "rms_steps")),
            "kept" if item["within"] else "exceeded",
        )
        for item in row["blocks"]
    ])  # fmt: skip
    first, before = row["first"], row["before"]
    if first is None:
        click.echo(f"{row['engine']}: every block keeps its tolerance")
        return
    then = "nothing before it"
    if before is not None:
        then = f"{before['block']} before it {_number(before['sqnr_db'], '.1f')} dB"
    click.echo(f"{row['engine']}: {first['block']} diverges first: {_number(first['sqnr_db'], '.1f')} dB; {then}")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
