"""`resnetrt export`: fold, trace, check, write a bundle."""

from pathlib import Path
from typing import Any

import click

from resnetrt.cli.options import NEW_PATH, SectionedCommand, export_options, json_option, read_labels
from resnetrt.cli.output import emit_json
from resnetrt.progress import show

_SECTIONS = {
    "--weights": "Network",
    "--golden-data": "Images, and the export",
    "--overwrite": "General",
}


@click.command("export", cls=SectionedCommand, sections=_SECTIONS)
@click.argument("model")
@click.option("--out", type=NEW_PATH, required=True, help="The bundle to write.")
@export_options("Images for the stored parity check.", "fashion_test")
@click.option("--overwrite", is_flag=True, help="Replace a bundle at --out.")
@json_option
def command(model: str, out: Path, as_json: bool, overwrite: bool, **options: Any) -> None:
    """Export MODEL to a bundle: BatchNorm folded, traced to ONNX, checked against eager.

    MODEL is a registered name (see `resnetrt models`), package.module:factory, torchvision:NAME or timm:NAME,
    also with arguments: mynet:resnet18(num_classes=10).
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
        f"parity with eager {parity['max_abs']:.1e} max abs over {bundle.manifest.golden_words}"
    )
    if bundle.manifest.untrained:
        show("warning: its weights are random; name trained ones with --weights")
    for kept in fold.kept:
        show(f"kept BatchNorm {kept.batch_norm}: {kept.reason}")
