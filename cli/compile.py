"""`resnetrt compile`: an engine from a variant."""

from pathlib import Path

import click

from resnetrt.cli.options import bundle_argument, json_option
from resnetrt.cli.output import emit_json


@click.command("compile")
@bundle_argument
@click.option("--backend", required=True, help="onnxruntime, openvino, ...")
@click.option("--precision", default=None, help="fp32, fp16, int8, ...: the variant in the backend's own dialect.")
@click.option("--variant", default=None, help="A variant by name, such as int8.tensorrt, instead of --precision.")
@click.option("--target", default="cpu", show_default=True)
@json_option
def command(bundle: Path, backend: str, precision: str | None, variant: str | None, target: str, as_json: bool) -> None:
    """Compile one of BUNDLE's variants for a backend; kept only if it agrees with the eager model."""
    from resnetrt.bundle import Bundle
    from resnetrt.errors import UsageError
    from resnetrt.export.compilers import choose_variant, compile_variant

    if (precision is None) == (variant is None):
        raise UsageError("compile: expected one of --precision and --variant; try --precision int8")
    opened = Bundle.open(bundle)
    chosen = variant or choose_variant(opened, backend, precision or "")
    engine = compile_variant(opened, chosen, backend, target)
    sidecar = opened.read_json(opened.manifest.engines[engine].sidecar)
    if as_json:
        emit_json({"bundle": str(bundle), "engine": engine, "sidecar": sidecar})
        return
    size = opened.manifest.files[opened.manifest.engines[engine].file].size_bytes
    parity = sidecar["parity"]
    click.echo(f"{engine}: {size / 1e6:.2f} MB, SQNR {parity['sqnr_db']:.1f} dB on {parity['n']} golden images")
