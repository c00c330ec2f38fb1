"""`resnetrt bench`: latency against depth, and the regression check."""

from pathlib import Path
from typing import Any

import click

from resnetrt.cli.benching import BenchRequest, run_bench
from resnetrt.cli.options import INTEGERS, WORDS, json_option


@click.command("bench")
@click.argument("bundles", metavar="[BUNDLE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--depths", type=INTEGERS, help="Networks by depth, such as 18,34,50,101,152; no trained weights needed.")
@click.option("--precisions", type=WORDS, help="Such as fp32,int8. Default: fp32,int8 for --depths, all of a BUNDLE.")
@click.option("--backends", type=WORDS, help="Such as onnxruntime,openvino. Default: all that are here.")
@click.option("--batches", type=INTEGERS, default="1,8", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of every engine. Default: all cores.")
@click.option("--cpus", type=WORDS, help="Bind this process to these cores, such as 0,1.")
@click.option("--rounds", type=click.IntRange(1), default=11, show_default=True, help="Blocks of each engine at least.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), help="Minutes of measuring; see docs/bench.md.")
@click.option("--peers", is_flag=True, help="Also time torch.compile, and NNCF + OpenVINO where installed.")
@click.option("--profile", metavar="ENGINE", help="Also time the layers of this engine.")
@click.option("--only-latency", is_flag=True, help="Leave out end-to-end, memory and start-up times.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder of cached bundles. Default: ~/.cache/resnetrt/bench."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for bench.json, bench.html and pictures.")
@click.option("--resume", type=click.Path(path_type=Path), help="The bench.json of an interrupted run: go on with it.")
@click.option(
    "--runs", type=click.IntRange(1), help="Runs, each its own process. Default: 5 a side of a check, else 1."
)
@click.option("--compare", type=click.Path(path_type=Path), help="An earlier bench.json: the regression check.")
@click.option("--against", type=click.Path(path_type=Path), help="A bundle, checkout or Python to run in turn with.")
@click.option("--self-check", is_flag=True, help="Compare with itself: which slowdown is found on this machine.")
@click.option("--max-slowdown", default="5%", show_default=True, help="What is still a PASS.")
@click.option("--accept", multiple=True, metavar="CONDITION", help="Compare although this condition differs.")
@click.option("--loadgen", type=WORDS, help="MLPerf LoadGen scenarios: SingleStream,MultiStream,Offline,Server.")
@click.option("--loadgen-seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--server-qps", type=click.FloatRange(min=0, min_open=True), help="Queries a second of LoadGen Server.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Time engines of BUNDLEs, or networks of several depths, beside eager PyTorch in the same run.

    With --compare, --against or --self-check the exit code is 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE.
    """
    ctx.exit(run_bench(BenchRequest(**options), as_json))
