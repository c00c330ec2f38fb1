"""`resnetrt report`: a bench run as one HTML file and pictures."""

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
@click.option("--accuracy", type=click.Path(path_type=Path), help="JSON of resnetrt evaluate, for the Pareto picture.")
@json_option
def command(
    results: tuple[Path, ...], html_file: Path | None, pictures: Path | None, accuracy: Path | None, as_json: bool
) -> None:
    """Write a self-contained HTML report of what `resnetrt bench` measured, on one machine or on several."""
    from resnetrt.atomic import write_file
    from resnetrt.benchmarks.compare.records import read_accuracy, read_record
    from resnetrt.benchmarks.reports.charts import draw_all, write_charts
    from resnetrt.benchmarks.reports.html_report import html_report, html_reports
    from resnetrt.errors import UsageError

    record, *others = (read_record(path, complete=False) for path in results)
    if others and (accuracy is not None or pictures is not None):
        raise UsageError("report: --accuracy and --pictures go with one RESULTS.json, found several; name one")
    if accuracy is not None:
        record["engines"] = read_accuracy(accuracy)
    target = html_file or results[0].with_suffix(".html")
    named = dict(zip(map(str, results), (record, *others), strict=True))
    write_file(target, (html_reports(named) if others else html_report(record)).encode())
    files = [target, *(write_charts(draw_all(record), pictures) if pictures else [])]
    if as_json:
        emit_json({"files": [str(path) for path in files]})
        return
    click.echo("\n".join(map(str, files)))
