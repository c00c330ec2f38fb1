"""Results of several files and machines as one HTML page: what is the same kind stands side by side."""

import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.depth.bench_record import BenchRecord
from resnetrt.benchmarks.reports.accuracy import ReportedAccuracy
from resnetrt.benchmarks.reports.cells import factor_heading, format_ms, format_number
from resnetrt.benchmarks.reports.html_page import bullets, page, table
from resnetrt.benchmarks.reports.html_report import html_report, run_parts, title

Runs = Mapping[str, BenchRecord]  # by file name
Records = Mapping[str, Mapping[str, Any]]
_LATENCY = ("network", "engine", "batch", "file", "machine", "median ms", "95 % interval", "times", "against")
_PARITY = ("engine", "file", "verdict", "machine", "against", "max abs", "SQNR dB", "top-1 agreement %")
_ACCURACY = (
    "engine", "file", "verdict", "machine", "data", "images", "reference top-1 %", "top-1 %", "drop pp", "95 % interval"
)  # fmt: skip


def results_page(bench: Runs, verify: Records, evaluate: Records) -> str:
    """One page of the results of `bench`, `verify` and `evaluate` by file name, such as a workstation's and a device's.

    One run of `bench` alone gets a page of its own form.
    """
    if len(bench) == 1 and not verify and not evaluate:
        return html_report(*bench.values())
    short = _short_names([*bench, *verify, *evaluate])
    bench = {short[name]: run for name, run in bench.items()}
    verify, evaluate = ({short[name]: record for name, record in group.items()} for group in (verify, evaluate))
    several = len({*bench, *verify, *evaluate}) > 1
    heading = "Results side by side" if several else "Parity" if verify else "Accuracy"
    parts = [f"<h1>{heading}</h1>"]
    if len(bench) > 1:
        parts += [
            "<h2>Latency</h2>",
            '<p class="quiet">Factors are of each run by itself; between machines compare the times.</p>',
            table(_LATENCY, sorted(_latency(bench), key=lambda row: (row[0], int(row[2]), row[1]))),
        ]
    if verify:
        parts += ["<h2>Parity with the eager model</h2>", table(_PARITY, _by_engine(_parity(verify)))]
        parts += [bullets(_why(verify))]
    if evaluate:
        parts += ["<h2>Accuracy</h2>", table(_ACCURACY, _by_engine(_accuracy(evaluate)))]
    for index, (name, run) in enumerate(bench.items()):
        parts += [f"<h1>{escape(name)}: {title(run)}</h1>", *run_parts(run, f"run{index}-")]
    return page(heading, parts)


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """The names from below the folder that all files share, by the names as given."""
    folder = os.path.commonpath([Path(name).absolute().parent for name in names])
    return {name: os.path.relpath(name, folder) for name in names}


def with_accuracy(bench: Runs, evaluate: Records) -> Runs:
    """The runs; one run beside one accuracy knows its engines' accuracy, for the Pareto picture."""
    if len(bench) != 1 or len(evaluate) != 1:
        return bench
    ((name, run),), (accuracy,) = bench.items(), evaluate.values()
    return {name: {**run, "engines": accuracy["engines"]}}


def _latency(runs: Runs) -> Iterable[tuple[str, ...]]:
    for name, run in runs.items():
        for row in run["results"]:
            interval = f"{format_ms(row['ci_ms'][0])} to {format_ms(row['ci_ms'][1])}"
            factor = format_number(row.get("times_faster"), 2), factor_heading(run["results"])
            times = format_ms(row["median_ms"]), interval, *factor
            yield row["network"], row["engine"], str(row["batch"]), name, _machine(run), *times


def _parity(records: Records) -> Iterable[tuple[str, ...]]:
    for name, record in records.items():
        for row in record["engines"]:
            live = row["live"]
            numbers = ("-", "-", "-")
            if live is not None:
                share = f"{100 * live['top1_agreement']:.1f}"
                numbers = f"{live['max_abs']:.1e}", f"{live['sqnr_db']:.1f}", share
            against = str(record.get("reference", "-"))
            yield row["engine"], name, row["verdict"], _machine(record), against, *numbers


def _why(records: Records) -> Iterable[str]:
    """Why engines failed or were not run."""
    for name, record in records.items():
        for row in record["engines"]:
            for reason in (*row["problems"], *filter(None, [row.get("not_run")])):
                yield f"{name}, {row['engine']}: {reason}"


def _accuracy(records: Records) -> Iterable[tuple[str, ...]]:
    for name, record in records.items():
        for row in map(ReportedAccuracy.from_json, record["engines"]):
            judged = row.engine, name, row.verdict or "-"
            numbers = (format_number(value, 2) for value in (row.fp32_top1, row.top1, row.drop_pp))
            interval = "-" if row.drop_ci_pp is None else "{:.2f} to {:.2f}".format(*row.drop_ci_pp)
            yield *judged, _machine(record), str(record.get("data", "-")), str(row.n), *numbers, interval


def _by_engine(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return sorted(rows, key=lambda row: row[0])  # files stay in the order in which they were named


def _machine(record: BenchRecord | Mapping[str, Any]) -> str:
    """What computed it: the board where it names itself, else the processor."""
    board = record["conditions"].get("board") or {}
    return str(board.get("model") or record["conditions"].get("cpu"))
