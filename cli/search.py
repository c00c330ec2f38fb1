"""`resnetrt search`: mixed precision under an accuracy budget."""

from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.options import NEW_PATH, bundle_argument, device_option, json_option
from resnetrt.cli.output import emit_json, print_table, print_words
from resnetrt.parts import require_parts

if TYPE_CHECKING:
    from resnetrt.benchmarks.search.search_record import ConfirmationRow, SearchRecord


@click.command("search")
@bundle_argument
@click.option("--data", required=True, help="Labelled images, half to search on and half to confirm.")
@click.option("--max-drop", type=float, help="Budget: percentage points of top-1 that may be lost.")
@click.option("--min-relative", type=float, help="Budget: share of the FP32 top-1 to keep, as 0.99.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of each verdict.")
@click.option("--backend", default="onnxruntime", show_default=True, help="Where time is measured.")
@click.option("--target", default="cpu", show_default=True, help="Target of the backend.")
@click.option("--method", default="mse", show_default=True, help="Range method: minmax, percentile or mse.")
@click.option("--samples", type=click.IntRange(2), default=4000, show_default=True, help="Images at most.")
@click.option("--budget", "minutes", type=float, default=30.0, show_default=True, help="Minutes at most for it all.")
@click.option("--picture", type=NEW_PATH, help="Write the Pareto front as <PATH>.svg and .png.")
@click.option("--overwrite", is_flag=True, help="Replace the variant that an earlier search stored.")
@device_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Keep the fewest and cheapest blocks of BUNDLE out of INT8 until it passes the gate; confirm on held-out images.

    Kept blocks compute in FP32, BF16 or FP16, whichever the backend really runs and runs fastest.

    Exit code 0 confirmed, 1 nothing passed or not confirmed, 3 too few images or minutes to tell. Ctrl-C keeps the best
    so far.
    """
    from resnetrt.benchmarks.accuracy.gate import EXIT_CODES, INCONCLUSIVE, Budget
    from resnetrt.benchmarks.search.run import SearchRequest, SearchRun
    from resnetrt.bundle import Bundle
    from resnetrt.calibration.quantize.quantize import QuantizeOptions
    from resnetrt.progress import show

    if given["picture"] is not None:
        require_parts("--picture", "matplotlib")
    budget = Budget(given["max_drop"], given["min_relative"], given["confidence"])
    names = ("data", "backend", "target", "samples", "minutes", "overwrite")
    options = QuantizeOptions(given["method"])
    request = SearchRequest(budget=budget, options=options, **{name: given[name] for name in names})
    record = SearchRun(Bundle.open(given["bundle"]), request, say=show).run()
    if given["picture"] is not None and record["front"]:
        from resnetrt.benchmarks.reports.plot import write_tradeoff

        write_tradeoff(record["front"], f"{given['bundle'].name}: blocks kept out of INT8", given["picture"])
    if given["as_json"]:
        emit_json(record)
    else:
        _print(record)
    verdict = INCONCLUSIVE if _is_untried(record) else record["verdict"]
    ctx.exit(EXIT_CODES.get(verdict or "", 1))


def _is_untried(record: "SearchRecord") -> bool:
    return bool(record["stopped"]) and not record["evaluations"]


def _print(record: "SearchRecord") -> None:
    print_table("", ("variant", "median ms", "top-1 %", "drop pp", "verdict", "front", "blocks kept"), [
        (
            row["engine"],
            f"{row['median_ms']:.3g}",
            f"{row['top1']:.2f}",
            f"{row['drop_pp'] + 0.0:.2f}",
            row["verdict"] or "",
            "*" if row["pareto"] else "",
            ", ".join(row["kept"]) if len(row["kept"]) < 6 else f"{len(row['kept'])} blocks",
        )
        for row in record["front"]
    ])  # fmt: skip
    for item in record["islands"]:
        time = "" if item["median_ms"] is None else f"{item['median_ms']:.3g} ms"
        why = f"left out: {item['out']}" if item["out"] else ""
        click.echo(
            f"{len(item['kept'])} noisiest blocks in {item['precision']}: {', '.join(filter(None, (time, why)))}"
        )
    if _is_untried(record):
        click.echo(f"{record['stopped']} before a variant was tried, so nothing is known; it needs more time")
    elif record["stopped"]:
        click.echo(f"{record['stopped']} after {record['evaluations']} evaluations; this is the best so far")
    for what in record["left_out"]:
        click.echo(f"left out: {what}")
    if record["held_out"] is None:
        if record["evaluations"]:
            click.echo("no variant passed on the search images; nothing was stored")
        return
    for row in record["confirmations"]:
        blocks = f"{len(row['kept'])} blocks kept"
        print_words(f"held-out, {blocks}: {row['verdict']} at {100 * row['confidence']:g} %: {_drop(row)}")
    if record["stored"]:
        click.echo(f"stored variant {record['stored']['variant']} and engine {record['stored']['engine']}")


def _drop(row: "ConfirmationRow") -> str:
    said, seen = (f"{drop + 0.0:.2f} pp" for drop in (row["unselected_drop_pp"], row["drop_pp"]))
    luck = "" if said == seen else f" ({seen} on these, but only what passes is stored)"
    return f"drop {said} of {row['n']} images{luck}"
