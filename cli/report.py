"""`resnetrt report`: results as one HTML file and pictures."""

from pathlib import Path

import click

from resnetrt.cli.options import json_option
from resnetrt.cli.output import emit_json


@click.command("report")
@click.argument("results", metavar="RESULTS.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), help="The page. Default: beside the first of them."
)
@click.option("--pictures", type=click.Path(path_type=Path), help="Also write each picture as SVG and PNG here.")
@json_option
def command(results: tuple[Path, ...], html_file: Path | None, pictures: Path | None, as_json: bool) -> None:
    """Write a self-contained HTML page of results, of one machine or of several side by side.

    RESULTS.json are bench.json of `bench`, and what `verify --json` and `evaluate --json` print, in any order. With one
    bench and one evaluate, the page has the picture of accuracy against latency.
    """
    from resnetrt.atomic import write_file
    from resnetrt.benchmarks.compare.records import read_results
    from resnetrt.benchmarks.reports.charts import draw_all, write_charts
    from resnetrt.benchmarks.reports.results_page import results_page, with_accuracy
    from resnetrt.errors import UsageError

    records = read_results(results)
    if pictures is not None and len(records.bench) != 1:
        raise UsageError(f"report: --pictures are of one bench, expected one bench.json, found {len(records.bench)}")
    bench = with_accuracy(records.bench, records.evaluate)
    target = html_file or results[0].with_suffix(".html")
    write_file(target, results_page(bench, records.verify, records.evaluate).encode())
    files = [target, *(write_charts(draw_all(next(iter(bench.values()))), pictures) if pictures else [])]
    if as_json:
        emit_json({"files": [str(path) for path in files]})
        return
    click.echo("\n".join(map(str, files)))
