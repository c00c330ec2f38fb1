"""`resnetrt inspect`: what a bundle holds."""

import json
from pathlib import Path
from typing import Any

import click

from resnetrt.cli.options import json_option
from resnetrt.cli.output import emit_json, print_table


@click.command("inspect")
@click.argument("bundle", metavar="BUNDLE|FILE", type=click.Path(path_type=Path))
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Check BUNDLE's schema and hashes and show its model, variants and engines; or what one FILE holds.

    FILE is an ONNX model, a calibration record, a file of weights, or JSON such as an engine's sidecar.
    """
    if bundle.is_file():
        _show_file(bundle, as_json)
    else:
        _show_bundle(bundle, as_json)


def _show_file(path: Path, as_json: bool) -> None:
    from resnetrt.cli.inspecting import describe

    description = describe(path)
    if as_json:
        emit_json({"file": str(path), **description})
        return
    click.echo(f"{path}: {description.pop('kind')}, {path.stat().st_size / 1e6:.2f} MB")
    if "content" in description:
        click.echo(json.dumps(description["content"], indent=2, sort_keys=True))
        return
    for name, value in description.items():
        if isinstance(value, dict):
            print_table(name, ("name", "value"), [(key, str(item)) for key, item in value.items()], left=2)
        else:
            click.echo(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _show_bundle(bundle: Path, as_json: bool) -> None:
    from resnetrt.bundle import Bundle

    manifest = Bundle.open(bundle).manifest
    record: dict[str, Any] = json.loads(manifest.to_bytes())
    if as_json:
        emit_json({"bundle": str(bundle), "manifest": record})
        return
    click.echo(
        f"{bundle}: {manifest.name}, {manifest.classes} classes, input {manifest.input.shape}, "
        f"checked on {manifest.golden_words}, weights: {manifest.weights_name}"
    )
    rows = []
    for name, variant in sorted(manifest.variants.items()):
        parity = variant.evidence.get("parity", {})
        size = manifest.files[variant.file].size_bytes
        rows.append((name, variant.precision, f"{size / 1e6:.2f}", f"{parity.get('sqnr_db', float('nan')):.1f}"))
    print_table("Variants", ("variant", "precision", "MB", "SQNR dB"), rows, left=2)
    engines = []
    for name, engine in sorted(manifest.engines.items()):
        engines.append((name, engine.variant, f"{manifest.files[engine.file].size_bytes / 1e6:.2f}"))
    print_table("Engines", ("engine", "variant", "MB"), engines, left=2)
    click.echo(f"{len(manifest.files)} files, all hashes match")
