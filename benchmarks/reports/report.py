"""The final table of a deployment: accuracy, latency and size, engine by engine; as cells, Markdown and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.accuracy.gate_rows import GateRow
from resnetrt.benchmarks.measure.latency import BASELINE, WatchedRow
from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS, no_ratio
from resnetrt.benchmarks.reports.accuracy import UNKNOWN_ACCURACY, AccuracyCells, ReportedAccuracy, SummaryRow
from resnetrt.benchmarks.reports.cells import (
    UNKNOWN,
    condition_lines,
    few_rounds,
    format_drop,
    format_ms,
    format_number,
    format_size,
    with_interval,
)
from resnetrt.benchmarks.reports.plot import write_tradeoff
from resnetrt.conditions import RESULT_SCHEMA_VERSION
from resnetrt.errors import UsageError
from resnetrt.manifest import canonical_json

HEADER = (
    "engine",
    "in its precision %",
    "top-1 %",
    "drop pp [95 % interval]",
    "flips %",
    "SQNR dB",
    "runs",
    "median ms [95 % interval]",
    "p90 ms",
    "p99 ms",
    "times faster [95 % interval]",
    "size",
)
TRIED = ("tried", "median ms", "drop pp", "verdict", "outcome", "why")
_HOW_TO_READ = """\
- **in its precision**: share of the multiply-accumulates that the backend runs in the precision of the engine's name.
- **drop**: FP32 top-1 minus the engine's, in percentage points, over the same images; negative is better than FP32. The
  interval is Tango's score interval for paired proportions.
- **flips**: images whose top-1 class differs from the eager model's, right or wrong.
- **SQNR**: 10 log10(sum of squared FP32 logits / sum of squared errors), in dB.
- **times faster**: eager FP32 time over the engine's, paired in rotated blocks of the same run; none from fewer than
  six rounds. Latencies are of the engine alone, float32 images in, logits out.
- **runs**: timed calls of the engine. An asterisk marks times that were taken while something else used the machine.
"""


@dataclass(frozen=True)
class Attempt:
    """One backend at one precision: its engine if there is one, and the outcome.

    `outcome` is empty while undecided, then `chosen`, `slower`, `accuracy` (outside the budget, or undecided),
    `verification` (wrong outputs, or too little work in its precision) or `not here` (this machine or backend can't run
    it); `why` is the reason in words.
    """

    backend: str
    precision: str
    engine: str | None = None
    outcome: str = ""
    why: str = ""
    median_ms: float | None = None
    drop_pp: float | None = None
    verdict: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row under `tried[]` of `deploy --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What a deployment measured: `engines` as the gate saw them, `results[]` of `bench`, `sizes` in bytes by engine.

    `batch` selects the latency rows of the table; `conditions` are the run's. `notes` are lines for the reader. `tried`
    lists what the engine was chosen from, None without a choice. `shares` are the shares of work in each engine's own
    precision, None if unknown; `refused` lists the engines that failed a check and were left out. `not_run` are engines
    for another machine, with the reason why they can't run here.
    """

    title: str
    engines: Sequence[GateRow]
    results: Sequence[WatchedRow]
    sizes: Mapping[str, int]
    conditions: Mapping[str, Any]
    batch: int = 1
    notes: Sequence[str] = field(default=())
    tried: Sequence[Attempt] | None = None
    shares: Mapping[str, float | None] = field(default_factory=dict)
    refused: Sequence[str] = field(default=())
    not_run: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> list[SummaryRow]:
        """One row per engine, eager FP32 first; values that were not measured are None."""
        accuracy = [ReportedAccuracy.of(row.accuracy) for row in self.engines]
        rows = summarize(accuracy, self.results, self.batch, self.not_run)
        if not rows:
            raise UsageError(f"report {self.title}: expected results of at least one engine, found none")
        for row in rows:
            name = row["engine"]
            row["own_share"], row["size_bytes"] = self.shares.get(name), self.sizes.get(name)
        return rows

    def to_json(self) -> dict[str, Any]:
        """The report as one object with the design's stable names."""
        return {
            "schema_version": RESULT_SCHEMA_VERSION,
            "title": self.title,
            "conditions": dict(self.conditions),
            "summary": self.summary(),
            "engines": [row.to_json() for row in self.engines],
            "results": [dict(row) for row in self.results],
            "notes": list(self.notes),
            "refused": list(self.refused),
            "not_run": dict(self.not_run),
            "tried": None if self.tried is None else [item.to_json() for item in self.tried],
        }

    def to_markdown(self, picture: str | None = None) -> str:
        """The report for people; `picture` is the picture's path relative to the Markdown file."""
        summary = self.summary()
        lines = [f"# {self.title}", "", *_markdown_table(HEADER, table_cells(summary)), ""]
        if picture:
            lines += [f"![Top-1 accuracy against median latency]({picture})", ""]
        notes = [*self.notes, *few_rounds_notes(summary), *not_run_notes(summary)]
        if notes:
            lines += [*(f"- {note}" for note in notes), ""]
        if self.refused:
            lines += ["## Refused", "", *(f"- {text}" for text in self.refused), ""]
        if self.tried is not None:
            lines += ["## What was tried", "", *_markdown_table(TRIED, tried_cells(self.tried)), ""]
        lines += ["## How to read it", "", _HOW_TO_READ, "## Conditions", ""]
        images = next((row["n"] for row in summary if row["n"]), None)
        facts: dict[str, object] = {"images evaluated": images, "batch size of the latencies": self.batch}
        facts |= condition_lines(self.conditions)
        lines += [f"- {name}: {value}" for name, value in facts.items() if value is not None]
        return "\n".join(lines) + "\n"


def summarize(
    accuracy: Sequence[ReportedAccuracy],
    results: Sequence[WatchedRow],
    batch: int,
    not_run: Mapping[str, str] | None = None,
) -> list[SummaryRow]:
    """Accuracy and latency joined: one row per engine, eager FP32 first; values that were not measured are None."""
    known, unable = {row.engine: row for row in accuracy}, not_run or {}
    latency = {row["engine"]: row for row in results if row["batch"] == batch}
    names = sorted(dict.fromkeys([*latency, *known, *unable]), key=lambda name: name != BASELINE)
    if BASELINE not in known and accuracy:
        known[BASELINE] = accuracy[0].of_baseline()
    return [
        _summary_row(name, known[name].cells() if name in known else UNKNOWN_ACCURACY, latency.get(name), unable)
        for name in names
    ]


def _summary_row(
    engine: str, accuracy: AccuracyCells, timed: WatchedRow | None, unable: Mapping[str, str]
) -> SummaryRow:
    """The row of an engine; of times of earlier versions, what they lack is None."""
    times: Mapping[str, Any] = timed or {}
    rounds = times.get("round_medians_ms")
    return {
        "engine": engine,
        **accuracy,
        "backend": times.get("backend"),
        "precision": times.get("precision"),
        "batch": times.get("batch"),
        "threads": times.get("threads"),
        "median_ms": times.get("median_ms"),
        "p90_ms": times.get("p90_ms"),
        "p99_ms": times.get("p99_ms"),
        "ci_ms": times.get("ci_ms"),
        "ci_confidence": times.get("ci_confidence"),
        "times_faster": times.get("times_faster"),
        "times_faster_ci": times.get("times_faster_ci"),
        "disturbed": times.get("disturbed"),
        "runs": times.get("n"),
        "rounds": None if rounds is None else len(rounds),
        "own_share": None,
        "size_bytes": None,
        "not_run": unable.get(engine),
    }


def table_cells(summary: Sequence[SummaryRow]) -> list[list[str]]:
    """The cells of the table under `HEADER`, as text."""
    return [_cells(row) for row in summary]


def tried_cells(tried: Sequence[Attempt]) -> list[list[str]]:
    """The cells of the table under `TRIED`, as text."""
    return [
        [
            f"{item.backend} {item.precision}",
            format_ms(item.median_ms),
            format_number(item.drop_pp, 2),
            item.verdict or UNKNOWN,
            item.outcome,
            item.why,
        ]
        for item in tried
    ]


def few_rounds_notes(summary: Sequence[SummaryRow]) -> list[str]:
    """A line that says why the table has no factors, if it has too few rounds for them."""
    few = [row["rounds"] for row in summary if row["rounds"] is not None and row["rounds"] < ENOUGH_ROUNDS]
    return [f"times faster: {no_ratio(min(few), 'time the engines longer with resnetrt bench')}"] if few else []


def not_run_notes(summary: Sequence[SummaryRow]) -> list[str]:
    """A line for each reason why engines were built and not run."""
    reasons: dict[str, list[str]] = {}
    for row in summary:
        if row["not_run"]:
            reasons.setdefault(row["not_run"], []).append(row["engine"])
    return [f"built, not run here: {', '.join(names)} ({reason})" for reason, names in reasons.items()]


def write_report(report: Report, folder: Path, picture: bool = True) -> list[Path]:
    """Write `report.json`, `report.md` and, if asked for, `report.svg` and `report.png`; return their paths.

    Raises `BackendMissing` before anything is written if a picture is wanted and matplotlib is absent.
    """
    pictures: list[Path] = []
    if picture:
        pictures = write_tradeoff(report.summary(), report.title, folder / "report")
    json_path, markdown_path = folder / "report.json", folder / "report.md"
    write_file(json_path, canonical_json(report.to_json()))
    write_file(markdown_path, report.to_markdown(pictures[0].name if pictures else None).encode())
    return [json_path, markdown_path, *pictures]


def _cells(row: SummaryRow) -> list[str]:
    return [
        str(row["engine"]) + (" *" if row["disturbed"] else ""),
        UNKNOWN if row["own_share"] is None else f"{row['own_share']:.1%}".removesuffix("%"),
        format_number(row["top1"], 2),
        format_drop(row["drop_pp"], row["drop_ci_pp"]),
        format_number(row["flips_percent"], 2),
        format_number(row["sqnr_db"], 1),
        "not run here" if row["not_run"] else UNKNOWN if row["runs"] is None else str(row["runs"]),
        with_interval(format_ms(row["median_ms"]), row["ci_ms"], format_ms) + few_rounds(row),
        format_ms(row["p90_ms"]),
        format_ms(row["p99_ms"]),
        with_interval(format_number(row["times_faster"], 2), row["times_faster_ci"], lambda end: format_number(end, 2)),
        format_size(row["size_bytes"]),
    ]


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"
    return [line(header), rule, *map(line, rows)]
