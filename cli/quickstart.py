"""`resnetrt quickstart`: the whole pipeline on the embedded model and images."""

from pathlib import Path

import click

from resnetrt.cli.deploy import run_deploy
from resnetrt.cli.options import NEW_PATH, device_option, json_option


@click.command("quickstart")
@click.option("--out", type=NEW_PATH, default=Path("quickstart"), show_default=True, help="Folder to write.")
@click.option("--no-picture", is_flag=True, help="Leave out the latency/accuracy picture.")
@device_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, out: Path, no_picture: bool, as_json: bool) -> None:
    """Fold, export, calibrate, quantize, compile, verify, evaluate and time the embedded Fashion-MNIST ResNet-20.

    Writes a bundle, report.md, report.json and a picture to --out; an older quickstart there is replaced.
    """
    from resnetrt.benchmarks.deploy.run import DeployRequest

    request = DeployRequest(
        model="fashion_resnet20",
        out=out,
        calib_data="fashion_calib",
        eval_data="fashion_test",
        overwrite=True,
        picture=not no_picture,
    )
    ctx.exit(run_deploy(request, as_json))
