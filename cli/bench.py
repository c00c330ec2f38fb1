"""`resnetrt bench`: latency against depth, and the regression check."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import INTEGERS, NEW_PATH, WORDS, SectionedCommand, device_option, json_option
from resnetrt.cli.output import emit_json, print_table, print_words
from resnetrt.errors import BackendMissing
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.benchmarks.depth.bench_record import BenchRecord
    from resnetrt.benchmarks.load.loadgen import LoadgenRow
    from resnetrt.benchmarks.measure.roofline import ResultRow

_TIMES = ("network", "engine", "batch", "n", "median ms [95 %]", "p90", "p99")
_ROOFLINE = ("GOPS", "% of peak", "% of floor", "limit")
_SECTIONS = {
    "--depths": "What is timed",
    "--batches": "How it is timed",
    "--work": "Files",
    "--runs": "Comparing runs",
    "--loadgen": "MLPerf LoadGen",
    "--device": "General",
}


@click.command("bench", cls=SectionedCommand, sections=_SECTIONS)
@click.argument("bundles", metavar="[BUNDLE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--depths", type=INTEGERS, help="Networks by depth, such as 18,34,50,101,152; no trained weights needed.")
@click.option(
    "--precisions",
    type=WORDS,
    help="Such as fp32,int8. Default: those (and fp16 on a GPU) for --depths, all of a BUNDLE.",
)
@click.option("--backends", type=WORDS, help="Such as onnxruntime,openvino. Default: all that are here.")
@click.option("--batches", type=INTEGERS, default="1,8", show_default=True, help="Batch sizes.")
@click.option("--contexts", type=INTEGERS, default=(), help="Also images a second with so many contexts, such as 2,4.")
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
@click.option("--out", type=NEW_PATH, help="Folder for bench.json, bench.html and pictures.")
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
@click.option(
    "--loadgen-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Least length of a scenario.",
)
@click.option("--server-qps", type=click.FloatRange(min=0, min_open=True), help="Queries a second of LoadGen Server.")
@device_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Time engines of BUNDLEs, or networks of several depths, beside eager PyTorch in the same run.

    Where eager can't run, as on a device without torch, the baseline is the FP32 file in ONNX Runtime.

    With --compare, --against or --self-check the exit code is 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE.
    """
    from resnetrt.benchmarks.compare.bench import BenchRequest, run_bench

    request = BenchRequest(**options)

    def finish(record: "BenchRecord") -> None:
        if request.out is not None:
            _write(record, request.out)
        _show(record, as_json)

    ctx.exit(run_bench(request, show, finish))


def _write(record: "BenchRecord", folder: Path) -> None:
    """Write `bench.html`, and with matplotlib the pictures, beside the run's `bench.json`."""
    from resnetrt.atomic import write_file

    try:
        from resnetrt.benchmarks.reports.charts import draw_all, write_charts
        from resnetrt.benchmarks.reports.html_report import html_report

        write_file(folder / "bench.html", html_report(record).encode())
        write_charts(draw_all(record), folder)
    except BackendMissing as error:
        show(f"no pictures: {error}")
    show(f"written to {folder}")


def _show(record: "BenchRecord", as_json: bool) -> None:
    if as_json:
        emit_json(record)
        return
    from resnetrt.benchmarks.reports.cells import (
        CONTEXTS_HEADER,
        about_names,
        baseline_words,
        contexts_cells,
        factor_heading,
    )
    from resnetrt.benchmarks.reports.conclusions import VERDICT_HEADER, conclusions, other_lines, verdict_cells

    rows = record["results"]
    title = f"Latency beside {baseline_words(rows)} in the same run"
    print_table(title, (*_TIMES, factor_heading(rows), *_ROOFLINE), map(_cells, rows), left=2)
    if words := about_names(rows):
        print_words(words)
    if record["contexts"]:
        print_table("Throughput by contexts side by side", CONTEXTS_HEADER, map(contexts_cells, record["contexts"]), 2)
    if record["loadgen"]:
        header = ("network", "engine", "scenario", "result", "number", "unit")
        print_table("LoadGen; not verified by MLCommons Association", header, map(_loadgen_cells, record["loadgen"]), 3)
    if "regression" in record:
        regression = record["regression"]
        title = f"Against {regression.get('compared', 'the earlier run')}: {regression['verdict']}"
        print_table(title, VERDICT_HEADER, map(verdict_cells, regression["cells"]), left=2)
        for line in other_lines(regression):
            print_words(line)
    for line in conclusions(record):
        print_words(line)
    for line in record["left_out"]:
        click.echo(f"left out: {line}")


def _cells(row: "ResultRow") -> Sequence[str]:
    from resnetrt.benchmarks.reports.cells import few_rounds, format_ms, format_number

    low, high = row["ci_ms"]
    return (
        row["network"],
        row["engine"] + (" *" if row["disturbed"] else ""),
        str(row["batch"]),
        str(row["n"]),
        f"{format_ms(row['median_ms'])} [{format_ms(low)}, {format_ms(high)}]{few_rounds(row)}",
        format_ms(row["p90_ms"]),
        format_ms(row["p99_ms"]),
        format_number(row["times_faster"], 2),
        format_number(row["gops"], 0),
        format_number(row["percent_of_peak"], 0),
        format_number(row["percent_of_floor"], 0),
        row["limit"] or "-",
    )


def _loadgen_cells(row: "LoadgenRow") -> Sequence[str]:
    from resnetrt.benchmarks.reports.cells import format_number

    return (row["network"], row["engine"], row["label"], row["result"], format_number(row["value"], 2), row["unit"])
