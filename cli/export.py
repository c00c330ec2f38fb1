"""`resnetrt export`: fold, trace, check, write a bundle."""

from pathlib import Path
from typing import Any

import click

from resnetrt.cli.options import FLOATS, json_option, model_options, read_labels
from resnetrt.cli.output import emit_json, note


@click.command("export")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle to write.")
@model_options
@click.option("--golden-data", default="fashion_test", show_default=True, help="Images for the stored parity check.")
@click.option("--golden-count", type=click.IntRange(16, 64), default=32, show_default=True)
@click.option("--labels", "labels_file", type=click.Path(path_type=Path), help="Class names, one a line.")
@click.option("--size", type=click.IntRange(1), help="Input height and width.")
@click.option("--resize", type=click.IntRange(1), help="Shorter side before the centre crop.")
@click.option("--mean", type=FLOATS, help="Mean per channel of pixels/255.")
@click.option("--std", type=FLOATS, help="Standard deviation per channel of pixels/255.")
@click.option("--opset", type=click.IntRange(18, 25), default=20, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a bundle at --out.")
@json_option
def command(model: str, out: Path, as_json: bool, overwrite: bool, **options: Any) -> None:
    """Export MODEL to a bundle: BatchNorm folded, traced to ONNX, checked against eager.

    MODEL is a registered name (see `resnetrt models`), package.module:factory, torchvision:NAME or timm:NAME.
    """
    from resnetrt.bundle import check_destination

    check_destination(out, overwrite)
    from resnetrt.benchmarks.verify.prepare import prepare_export
    from resnetrt.export.fp32.export import export_bundle

    labels = read_labels(options.pop("labels_file"))
    request = prepare_export(model, labels=labels, **options)
    bundle, fold = export_bundle(request, out, overwrite)
    parity = bundle.manifest.variants["fp32"].evidence["parity"]
    record = {
        "bundle": str(out),
        "model": bundle.manifest.name,
        "weights": bundle.manifest.weights,
        "parity": parity,
        "fold": fold.to_json(),
    }
    if as_json:
        emit_json(record)
        return
    worst = fold.to_json()["max_relative_error"]
    click.echo(
        f"{out}: {bundle.manifest.name}, {len(fold.certificates)} BatchNorms folded (error {worst:.1e} relative), "
        f"parity with eager {parity['max_abs']:.1e} max abs over {parity['n']} images"
    )
    if bundle.manifest.untrained:
        note("warning: its weights are random; name trained ones with --weights")
    for kept in fold.kept:
        note(f"kept BatchNorm {kept.batch_norm}: {kept.reason}")
