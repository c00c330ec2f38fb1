"""`resnetrt evaluate`: the accuracy gate."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import SectionedCommand, device_option, json_option, with_options
from resnetrt.cli.output import emit_json, print_table, print_words
from resnetrt.progress import show

if TYPE_CHECKING:
    from resnetrt.benchmarks.accuracy.gate import Budget
    from resnetrt.benchmarks.evaluate.record import EvaluateRecord
    from resnetrt.benchmarks.evaluate.run import GateRun

_PATH = click.Path(path_type=Path)
_OPTIONS = [
    click.argument("bundle", type=_PATH, required=False),
    click.option("--data", help="Image folder with one subfolder a class, .npz, or an embedded set."),
    click.option("--engine", "engines", multiple=True, help="Engine id; may be repeated. Default: all."),
    click.option("--weights", type=_PATH, help="The weights file, to run the eager model."),
    click.option("--samples", type=click.IntRange(1), help="Images at most, class-balanced. Default: all."),
    click.option(
        "--group-by", metavar="folder|REGEX", help="Images that belong together, as frames of a video, count as one."
    ),
    click.option("--allow-overlap", is_flag=True, help="Accept images that calibration has used."),
    click.option("--ray", help="Run on a Ray cluster: auto (the one here), local, or its address."),
    click.option("--max-drop", type=float, help="Budget: percentage points of top-1 that may be lost."),
    click.option("--min-relative", type=float, help="Budget: share of the FP32 top-1 to keep, as 0.99."),
    click.option("--confidence", type=float, default=0.95, show_default=True, help="Of each verdict."),
    click.option("--baseline", type=_PATH, help="Results file or JSON of an older run, to compare with."),
    click.option("--baseline-engine", "renamed", multiple=True, metavar="NEW=OLD", help="Renamed since the baseline."),
    click.option("--results", type=_PATH, help="Store per-image outcomes here; a killed run goes on from here."),
    click.option("--junit", type=_PATH, help="Write JUnit XML."),
    click.option("--markdown", type=_PATH, help="Write a comment for a pull request."),
    click.option("--contact-sheet", type=_PATH, help="Write a picture of the worst flips (first engine that flips)."),
    click.option("--plan", "planning", is_flag=True, help="How many images the budget needs."),
    click.option("--flip-rate", type=float, default=0.03, show_default=True, help="--plan: share of images that flip."),
    click.option("--power", type=float, default=0.9, show_default=True, help="--plan: chance of PASS."),
    click.option(
        "--engines",
        "engine_count",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="--plan: how many are to PASS.",
    ),
    click.option("--true-drop", type=float, default=0.0, show_default=True, help="--plan: the drop to expect, pp."),
    device_option,
    json_option,
]
_SECTIONS = {
    "--max-drop": "Verdict",
    "--results": "Files",
    "--plan": "Planning, which evaluates nothing",
    "--device": "General",
}


@click.command("evaluate", cls=SectionedCommand, sections=_SECTIONS)
@with_options(_OPTIONS)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Top-1 of BUNDLE's engines beside the FP32 reference; under a budget PASS, FAIL or INCONCLUSIVE.

    Exit code 0, 1 or 3. Without --max-drop or --min-relative there is no verdict.
    """
    if given["planning"]:
        _plan(given)
        return
    from resnetrt.benchmarks.accuracy.gate import EXIT_CODES
    from resnetrt.benchmarks.accuracy.request import GateRequest
    from resnetrt.benchmarks.evaluate.run import run_gate
    from resnetrt.bundle import Bundle

    for name, what in (("bundle", "argument 'BUNDLE'"), ("data", "option '--data'")):
        if given[name] is None:
            raise click.UsageError(f"Missing {what}; only --plan does without")
    _check_files(given)
    names = ("data", "engines", "weights", "samples", "allow_overlap", "results", "baseline", "group_by", "ray")
    renamed = _renamed(given["renamed"])
    request = GateRequest(budget=_budget(given), renamed=renamed, **{name: given[name] for name in names})
    run = run_gate(Bundle.open(given["bundle"]), request)
    if given["as_json"]:
        emit_json(run.record)
    else:
        _print(run.evaluated)
    _write_files(run, given)
    verdict = run.evaluated.verdict
    if verdict is not None:
        ctx.exit(EXIT_CODES[verdict])


def _renamed(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for text, (new, _, then) in zip(given, pairs, strict=True):
        if not new or not then:
            raise click.UsageError(f"--baseline-engine: expected NEW=OLD, found {text}")
    return {new: then for new, _, then in pairs}


def _budget(given: dict[str, Any]) -> "Budget | None":
    from resnetrt.benchmarks.accuracy.gate import Budget

    if given["max_drop"] is None and given["min_relative"] is None:
        return None
    return Budget(given["max_drop"], given["min_relative"], given["confidence"])


def _plan(given: dict[str, Any]) -> None:
    from resnetrt.benchmarks.accuracy.plan import plan
    from resnetrt.errors import UsageError

    budget = _budget(given)
    if budget is None:
        raise UsageError("--plan: expected --max-drop, found no budget")
    planned = plan(budget, given["flip_rate"], given["power"], given["true_drop"], given["engine_count"])
    if given["as_json"]:
        emit_json({"budget": budget.to_json(), "plan": planned.to_json()})
        return
    several = (
        "" if planned.engines == 1 else f" for each of {planned.engines} engines, {planned.power_each:.1%} for one"
    )
    click.echo(
        f"{planned.n} images: PASS with a chance of {planned.power:.1%}{several} for {budget}, at the first look, "
        f"if the true drop is {planned.true_drop_pp:g} pp and {planned.flip_rate:.1%} of images flip"
    )


def _check_files(given: dict[str, Any]) -> None:
    """Raise `UsageError` for a file that can't be written, before the long run starts."""
    from resnetrt.benchmarks.evaluate.flips import check_suffix
    from resnetrt.errors import UsageError

    if given["contact_sheet"] is not None:
        check_suffix(given["contact_sheet"])
    for name in ("junit", "markdown", "contact_sheet"):
        path: Path | None = given[name]
        if path is not None and (path.is_dir() or not os.access(path.resolve().parent, os.W_OK)):
            what = "a folder" if path.is_dir() else "a folder that is missing or write-protected"
            raise UsageError(f"--{name.replace('_', '-')} {path}: expected a file to write, found {what}")


def _write_files(run: "GateRun", given: dict[str, Any]) -> None:
    from resnetrt.atomic import write_file
    from resnetrt.benchmarks.evaluate.flips import write_contact_sheet
    from resnetrt.benchmarks.evaluate.report import to_junit, to_markdown

    if given["junit"] is not None:
        write_file(given["junit"], to_junit(run.evaluated))
    if given["markdown"] is not None:
        write_file(given["markdown"], to_markdown(run.evaluated).encode())
    if given["contact_sheet"] is not None:
        engines = run.evaluated.engines
        engine = next((engine for engine in engines if engine.flips), engines[0])
        accuracy = engine.gate.accuracy
        share = f"{accuracy.flips_percent:.2f} % of {accuracy.n} images flip; the worst {len(engine.flips)}"
        title = f"{accuracy.engine}: {share if engine.flips else f'none of {accuracy.n} images flips'}"
        write_contact_sheet(given["contact_sheet"], engine.flips, run.dataset, title)


def _print(record: "EvaluateRecord") -> None:
    from resnetrt.benchmarks.evaluate.report import CLASSES, HEADER, explain, explain_baseline, row_cells

    if record.reference_why:
        show(f"reference is {record.reference}: {record.reference_why}")
    print_table("", HEADER, [row_cells(engine.gate) for engine in record.engines])
    for engine in record.engines:
        if record.budget:
            print_words(f"{engine.gate.engine}: {engine.gate.verdict}: {explain(engine.gate, record.budget)}")
        for hint in engine.hints or ():
            click.echo(f"  likely cause: {hint}")
        for drop in engine.losing_classes(CLASSES):
            loss = f"drop {drop.drop_pp:.1f} pp of {drop.n} images, corrected p {drop.p_holm:.2g}"
            print_words(f"  class {drop.name}: {loss}")
    for row in record.baseline:
        if record.budget:
            print_words(f"{row.engine} {explain_baseline(row, record.budget)}")
