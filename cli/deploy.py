"""`resnetrt deploy`: the whole pipeline for the user's own model."""

import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import (
    NEW_PATH,
    WORDS,
    SectionedCommand,
    device_option,
    export_options,
    given_options,
    input_option,
    json_option,
    min_share_option,
    quantize_options,
    read_labels,
    set_options,
    tensorrt_options,
)
from resnetrt.cli.output import emit_json, print_table
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.benchmarks.deploy.run import DeployRequest

_MAX_DROP_PP = 1.0
_SECTIONS = {
    "--weights": "Network",
    "--golden-data": "Images, and the export",
    "--samples": "INT8",
    "--for": "Engines",
    "--profiles": "Engines of TensorRT",
    "--batch": "Judging",
    "--overwrite": "General",
}


@click.command("deploy", cls=SectionedCommand, sections=_SECTIONS)
@click.argument("model")
@click.option("--calib-data", required=True, help="Calibration images, labels not needed.")
@click.option("--eval-data", required=True, help="Labelled images, none of them used for calibration.")
@click.option("--eval-samples", type=click.IntRange(1), help="Evaluation images at most. Default: all.")
@click.option("--out", type=NEW_PATH, required=True, help="Folder for the bundle and the report.")
@export_options("Images for the stored parity check. Default: those of --eval-data.", None)
@input_option("uint8: the engines take camera frames (N, H, W, C), preprocessing inside.")
@click.option("--samples", type=click.IntRange(1), default=512, show_default=True, help="Calibration images at most.")
@click.option("--learn-rounding", is_flag=True, help="Choose for each weight whether it is rounded up or down.")
@quantize_options
@click.option(
    "--for",
    "--backend",
    "backends",
    type=WORDS,
    help="Backends, such as onnxruntime,tensorrt. Default: all that compile here. auto: try every backend and "
    "precision of this machine, keep only the fastest engine that passes.",
)
@click.option("--precisions", type=WORDS, help="fp32, fp16, bf16, int8, fp8. Default: the usual ones of each backend.")
@click.option("--target", help="tensorrt_rtx: GPUs to build for, as sm86,sm89. Default: one engine for all.")
@min_share_option
@tensorrt_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size of the latencies.")
@click.option("--max-drop", type=float, help="--backend auto: points of top-1 that may be lost. Default: 1.")
@click.option("--min-relative", type=float, help="--backend auto: share of the FP32 top-1 to keep instead, as 0.99.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="--backend auto: of each verdict.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle at --out.")
@device_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, model: str, out: Path, as_json: bool, overwrite: bool, **given: Any) -> None:
    """Export, calibrate, quantize, compile, verify, evaluate and time MODEL; write a bundle and a report.

    Variants are made for all of --for, checked, and compiled where they can be: TensorRT-RTX builds on any machine, and
    what can't run here is marked so; TensorRT builds on its GPU only, and `package device` takes its variants there.

    The exit code is 1 if an engine was refused: it differs from the eager model, or does less than --min-share of its
    work in the precision of its name. With --backend auto it is 0 if an engine was kept, 1 if none passes the budget, 3
    if too few images tell.
    """
    from resnetrt.benchmarks.accuracy.gate import Budget
    from resnetrt.benchmarks.deploy.engines import Wanted
    from resnetrt.benchmarks.deploy.run import DeployRequest
    from resnetrt.calibration.quantize.quantize import QuantizeOptions
    from resnetrt.export.compilers.tensorrt.options import TensorRTOptions

    def take(*names: str) -> list[Any]:
        return [given.pop(name) for name in names]

    tensorrt = set_options({item.name: given.pop(item.name) for item in fields(TensorRTOptions)})
    backends, precisions, target, min_share, input_type = take(
        "backends", "precisions", "target", "min_share", "input_type"
    )
    auto = backends == ("auto",)
    if auto and (precisions or target or tensorrt):
        raise click.UsageError("--backend auto tries all that is here; leave out --precisions and the compile options")
    if not auto and given_options(ctx, "max_drop", "min_relative", "confidence"):
        raise click.UsageError("--max-drop, --min-relative and --confidence need --backend auto")
    max_drop, min_relative, confidence = take("max_drop", "min_relative", "confidence")
    if max_drop is None and min_relative is None:
        max_drop = _MAX_DROP_PP
    method, reduce_range, weights_method, unbiased = take(
        "method", "reduce_range", "weights_method", "no_bias_correction"
    )
    learn_rounding, rounding_s = take("learn_rounding", "rounding_budget")
    names = ("calib_data", "eval_data", "samples", "eval_samples", "batch")
    request = DeployRequest(
        model=model,
        out=out,
        **{name: given.pop(name) for name in names},
        quantizing=QuantizeOptions(method, reduce_range, weights_method, not unbiased),
        rounding_s=rounding_s if learn_rounding else None,
        wanted=Wanted(() if auto else backends or (), precisions or (), target, tensorrt, min_share, input_type),
        overwrite=overwrite,
        budget=Budget(max_drop, min_relative, confidence) if auto else None,
        model_options={"labels": read_labels(given.pop("labels_file")), **given},
    )
    ctx.exit(run_deploy(request, as_json))


def run_deploy(request: "DeployRequest", as_json: bool) -> int:
    """Deploy, with one line a stage on stderr, and print the final table or one JSON object; returns the exit code."""
    from resnetrt.benchmarks.accuracy.gate import EXIT_CODES
    from resnetrt.benchmarks.deploy.auto import verdict
    from resnetrt.benchmarks.deploy.run import deploy
    from resnetrt.benchmarks.reports.report import (
        HEADER,
        TRIED,
        few_rounds_notes,
        not_run_notes,
        table_cells,
        tried_cells,
    )

    started = time.monotonic()
    bundle, report, files = deploy(request, say=lambda line: show(f"{time.monotonic() - started:5.1f} s  {line}"))
    if as_json:
        emit_json({"bundle": str(bundle.path), "files": [str(path) for path in files], **report.to_json()})
    else:
        summary = report.summary()
        print_table(report.title, HEADER, table_cells(summary))
        for line in [*report.notes, *few_rounds_notes(summary), *not_run_notes(summary)]:
            click.echo(line)
        if report.tried is not None:
            print_table("What was tried", TRIED, tried_cells(report.tried))
        click.echo(f"bundle {bundle.path}; report {', '.join(str(path) for path in files)}")
    for text in report.refused:
        show(f"resnetrt: refused: {text}")
    if report.refused:
        return 1
    return 0 if report.tried is None else EXIT_CODES[verdict(report.tried)]
