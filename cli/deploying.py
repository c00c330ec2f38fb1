"""What `quickstart` and `deploy` share: run the pipeline, print its table."""

import time
from typing import TYPE_CHECKING

import click

from resnetrt.cli.output import emit_json, note, print_table

if TYPE_CHECKING:
    from resnetrt.benchmarks.deploy.run import DeployRequest


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
