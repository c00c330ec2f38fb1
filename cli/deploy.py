"""`resnetrt deploy`: the whole pipeline for a model of one's own."""

from pathlib import Path
from typing import Any

import click

from resnetrt.cli.deploying import run_deploy
from resnetrt.cli.options import json_option, model_options, read_labels


@click.command("deploy")
@click.argument("model")
@click.option("--calib-data", required=True, help="Calibration images, labels not needed.")
@click.option("--eval-data", required=True, help="Labelled images, none of them used for calibration.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the bundle and the report.")
@model_options
@click.option("--labels", "labels_file", type=click.Path(path_type=Path), help="Class names, one a line.")
@click.option("--samples", type=click.IntRange(1), default=512, show_default=True, help="Calibration images at most.")
@click.option("--eval-samples", type=click.IntRange(1), help="Evaluation images at most. Default: all.")
@click.option("--method", default="mse", show_default=True, help="Range method.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size of the latencies.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle at --out.")
@json_option
def command(
    model: str,
    calib_data: str,
    eval_data: str,
    out: Path,
    labels_file: Path | None,
    samples: int,
    eval_samples: int | None,
    method: str,
    batch: int,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export, calibrate, quantize, compile, verify, evaluate and time MODEL; write a bundle and a report."""
    from resnetrt.benchmarks.deploy import DeployRequest

    request = DeployRequest(
        model=model,
        out=out,
        calib_data=calib_data,
        eval_data=eval_data,
        samples=samples,
        eval_samples=eval_samples,
        method=method,
        batch=batch,
        overwrite=overwrite,
        model_options={"labels": read_labels(labels_file), **options},
    )
    run_deploy(request, as_json)
