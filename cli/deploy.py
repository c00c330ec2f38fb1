"""`resnetrt deploy`: the whole pipeline for the user's own model."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import (
    WORDS,
    device_option,
    given_options,
    json_option,
    min_share_option,
    model_options,
    read_labels,
)
from resnetrt.cli.output import emit_json, note, print_table

if TYPE_CHECKING:
    from resnetrt.benchmarks.deploy.run import DeployRequest

_MAX_DROP_PP = 1.0


@click.command("deploy")
@click.argument("model")
@click.option("--calib-data", required=True, help="Calibration images, labels not needed.")
@click.option("--eval-data", required=True, help="Labelled images, none of them used for calibration.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the bundle and the report.")
@model_options
@click.option("--labels", "labels_file", type=click.Path(path_type=Path), help="Class names, one a line.")
@click.option("--samples", type=click.IntRange(1), default=512, show_default=True, help="Calibration images at most.")
@click.option("--eval-samples", type=click.IntRange(1), help="Evaluation images at most. Default: all.")
@click.option("--for", "backends", type=WORDS, help="Backends to make variants for. Default: onnxruntime,openvino.")
@click.option("--precisions", type=WORDS, help="fp32, fp16, bf16, int8, fp8. Default: fp32,int8.")
@click.option("--method", default="mse", show_default=True, help="Range method.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size of the latencies.")
@click.option(
    "--backend",
    type=click.Choice(["auto"]),
    help="auto: try every backend and precision of this machine, keep only the fastest engine that passes.",
)
@click.option("--max-drop", type=float, help="--backend auto: points of top-1 that may be lost. Default: 1.")
@click.option("--min-relative", type=float, help="--backend auto: share of the FP32 top-1 to keep instead, as 0.99.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="--backend auto: of each verdict.")
@min_share_option
@click.option("--overwrite", is_flag=True, help="Replace the bundle at --out.")
@device_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    calib_data: str,
    eval_data: str,
    out: Path,
    labels_file: Path | None,
    samples: int,
    eval_samples: int | None,
    backends: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    method: str,
    batch: int,
    backend: str | None,
    max_drop: float | None,
    min_relative: float | None,
    confidence: float,
    min_share: float,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export, calibrate, quantize, compile, verify, evaluate and time MODEL; write a bundle and a report.

    Variants are made for all of --for, checked, and compiled where they can run here; `package device` takes the others
    to where they can.

    The exit code is 1 if an engine was refused: it differs from the eager model, or does less than --min-share of its
    work in the precision of its name. With --backend auto it is 0 if an engine was kept, 1 if none passes the budget, 3
    if too few images tell.
    """
    from resnetrt.benchmarks.accuracy.gate import Budget
    from resnetrt.benchmarks.deploy.run import BACKENDS, DEFAULT_PRECISIONS, DeployRequest

    if backend is not None and given_options(ctx, "backends", "precisions"):
        raise click.UsageError("--backend auto tries all that is here; leave out --for and --precisions")
    if backend is None and given_options(ctx, "max_drop", "min_relative", "confidence"):
        raise click.UsageError("--max-drop, --min-relative and --confidence need --backend auto")
    if max_drop is None and min_relative is None:
        max_drop = _MAX_DROP_PP
    request = DeployRequest(
        model=model,
        out=out,
        calib_data=calib_data,
        eval_data=eval_data,
        samples=samples,
        eval_samples=eval_samples,
        method=method,
        batch=batch,
        min_share=min_share,
        backends=backends or BACKENDS,
        precisions=precisions or DEFAULT_PRECISIONS,
        overwrite=overwrite,
        budget=None if backend is None else Budget(max_drop, min_relative, confidence),
        model_options={"labels": read_labels(labels_file), **options},
    )
    ctx.exit(run_deploy(request, as_json))


def run_deploy(request: "DeployRequest", as_json: bool) -> int:
    """Deploy, with one line a stage on stderr, and print the final table or one JSON object; returns the exit code."""
    from resnetrt.benchmarks.accuracy.gate import EXIT_CODES
    from resnetrt.benchmarks.deploy.auto import verdict
    from resnetrt.benchmarks.deploy.run import deploy
    from resnetrt.benchmarks.reports.report import HEADER, TRIED, few_rounds_notes, table_cells, tried_cells

    started = time.monotonic()
    bundle, report, files = deploy(request, say=lambda line: note(f"{time.monotonic() - started:5.1f} s  {line}"))
    if as_json:
        emit_json({"bundle": str(bundle.path), "files": [str(path) for path in files], **report.to_json()})
    else:
        summary = report.summary()
        print_table(report.title, HEADER, table_cells(summary))
        for line in [*report.notes, *few_rounds_notes(summary)]:
            click.echo(line)
        if report.tried is not None:
            print_table("What was tried", TRIED, tried_cells(report.tried))
        click.echo(f"bundle {bundle.path}; report {', '.join(str(path) for path in files)}")
    for text in report.refused:
        note(f"resnetrt: refused: {text}")
    if report.refused:
        return 1
    return 0 if report.tried is None else EXIT_CODES[verdict(report.tried)]
