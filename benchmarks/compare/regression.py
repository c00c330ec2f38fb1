"""Is this code slower than earlier code? Whole runs of one against whole runs of the other, cell by cell.

A cell is an engine of a network at a batch size. A run gives one number per cell: the median over rounds of the
engine's time divided by eager's time in the same round, which cancels the machine's changing speed. Runs differ more
than the rounds of one run suggest, so the interval comes from the spread between runs (`between_runs`).

What a verdict of the command claims, if runs differ only by chance:

- FAIL: some cell is slower than the limit. This is wrong in at most 5 % of the cases, however many cells there are:
  Holm's method corrects for their number.
- PASS: no cell is slower than the limit. This is wrong in at most 5 % of the cases. No correction is needed: all cells
  must pass, and a slower cell passes in at most 5 %, alone or among others (the intersection-union test: Berger 1982,
  Technometrics 24, 295-300).

Each 5 % is the sum of two looks of 2.5 %, because undecided cells are measured once more (`more_runs`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Literal, cast

from resnetrt.benchmarks.depth.bench_record import BenchRecord, CellRow, ComparedRow, MachineRow, RegressionRecord
from resnetrt.benchmarks.measure.latency import BASELINES, baseline_of
from resnetrt.benchmarks.measure.timing import CONFIDENCE, ENOUGH_ROUNDS
from resnetrt.benchmarks.stats.between_runs import Difference, differ, run_variance, student_t
from resnetrt.benchmarks.stats.holm import holm
from resnetrt.errors import UsageError

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Run = Sequence[ComparedRow]  # rows of one process: `results[]`, or the part of it that `slim` keeps
Key = tuple[str, str, int, int]
_Rows = Mapping[Key, ComparedRow]  # of one run
Group = tuple[str, int]  # network and batch
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
LEVEL = (1 - CONFIDENCE) / 2  # one-sided, for one look
_MISSED = 0.10  # the share of slowdowns of `detectable_percent` that one look misses
_KEPT = ("network", "engine", "batch", "threads", "round_medians_ms", "disturbed")


@dataclass(frozen=True)
class CellVerdict:
    """`slowdown_percent` of one cell, its 95 % interval, and the verdict; None where nothing can be said.

    `against` is the divisor of the times: `eager-fp32`, `onnx-fp32` where eager can't run, or `time` without either.
    For either side, `runs` counts the runs that are used, `disturbed` those left out because something else used the
    machine, and `few_rounds` those left out because they are too short. `spread_percent` is the standard deviation
    between runs. `detectable_percent` is the slowdown that this number of runs would find in nine of ten cases at this
    limit.
    """

    network: str
    engine: str
    batch: int
    threads: int
    against: str
    verdict: Verdict
    runs: tuple[int, int]
    disturbed: tuple[int, int]
    few_rounds: tuple[int, int]
    slowdown_percent: float | None = None
    ci_percent: tuple[float, float] | None = None
    spread_percent: float | None = None
    detectable_percent: float | None = None


@dataclass(frozen=True)
class Regression:
    """The verdicts of all cells that both sides have; `only_old` and `only_new` name the other cells.

    `machine` is the change of eager's own time: a statement about the machine, not a verdict.
    """

    limit_percent: float
    cells: tuple[CellVerdict, ...]
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()
    machine: tuple[MachineRow, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """FAIL if a cell fails or an old cell is gone; else INCONCLUSIVE if any cell is; else PASS."""
        verdicts = {cell.verdict for cell in self.cells}
        if "FAIL" in verdicts or self.only_old:
            return "FAIL"
        return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"

    @property
    def unsure(self) -> set[Group]:
        """Network and batch of the undecided cells that more runs may decide."""
        return {(c.network, c.batch) for c in self.cells if c.verdict == "INCONCLUSIVE" and c.ci_percent is not None}

    def to_json(self) -> RegressionRecord:
        """The record under `regression` of `bench --json`."""
        return {
            "verdict": self.verdict,
            "max_slowdown_percent": self.limit_percent,
            "cells": [cast(CellRow, asdict(cell)) for cell in self.cells],
            "only_old": list(self.only_old),
            "only_new": list(self.only_new),
            "machine": list(self.machine),
        }


def parse_percent(text: str) -> float:
    """`5%` or `5` as 5.0. Raises `UsageError` for anything else and for a negative number."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--max-slowdown: expected a percentage such as 5%, found {text!r}")
    return value


def runs_of(record: BenchRecord) -> list[Run]:
    """The runs of a `bench.json`: its own results, and those of further processes if there were any."""
    return [record["results"], *(run["results"] for run in record.get("runs", ()))]


def slim(rows: Run) -> list[ComparedRow]:
    """The rows, reduced to what a comparison needs."""
    return [cast(ComparedRow, {name: value for name, value in row.items() if name in _KEPT}) for row in rows]


def compare_runs(old: Sequence[Run], new: Sequence[Run], limit_percent: float, baseline: bool = True) -> Regression:
    """Compare the runs of two sides; without `baseline` by time, for example because eager differs between the sides.

    Raises `UsageError` if the sides share no cell, or if only one of them timed eager.
    """
    sides = [[{_key(row): row for row in run} for run in runs] for runs in (old, new)]
    before, after = (dict.fromkeys(key for rows in runs for key in rows) for runs in sides)
    shared = [key for key in after if key in before]
    if not shared:
        raise UsageError(
            f"--compare: expected a cell that both runs measured, found none among {len(before)} and {len(after)}; "
            f"{'use the same networks' if before and after else 'give more minutes with --budget'}"
        )
    judged = [key for key in shared if key[1] not in BASELINES]
    pairs = [(_side(key, sides[0], baseline), _side(key, sides[1], baseline)) for key in judged]
    judged_cells = _judge(list(map(_cell, judged, pairs)), pairs, limit_percent)
    return Regression(
        limit_percent,
        tuple(judged_cells),
        tuple(map(_name, (key for key in before if key not in after))),
        tuple(map(_name, (key for key in after if key not in before))),
        tuple(_machine(key, *sides) for key in shared if key[1] in BASELINES),
    )


@dataclass(frozen=True)
class _Side:
    """The rounds of one cell, divided by the baseline's, in each run that counts; and how many runs don't count."""

    rounds: list[list[float]]
    against: str
    disturbed: int
    few: int

    def values(self, rounds: int) -> list[float]:
        """The logarithm of each run's median; all use the same number of rounds, so that their precision is equal."""
        return [math.log(median(run[:rounds])) for run in self.rounds]


def _side(key: Key, runs: Sequence[_Rows], baseline: bool) -> _Side:
    network, engine, batch, threads = key
    counted, against, disturbed, few = [], set(), 0, 0
    for rows in runs:
        if key not in rows:
            continue
        own = rows[key]
        beside = (key[1] for key in rows if (key[0], *key[2:]) == (network, batch, threads))
        divisor = baseline_of(beside) if baseline and engine not in BASELINES else None
        against.add(divisor or "time")
        times = own["round_medians_ms"]
        over = [1.0] * len(times)
        if divisor is not None:
            over = rows[network, divisor, batch, threads]["round_medians_ms"]
        if own.get("disturbed"):
            disturbed += 1
        elif len(times) < ENOUGH_ROUNDS:
            few += 1
        else:
            counted.append([a / b for a, b in zip(times, over, strict=True)])
    if len(against) > 1:
        raise UsageError(f"--compare: {baseline_of(against)} was timed in some runs only; time it in all")
    return _Side(counted, against.pop(), disturbed, few)


def _cell(key: Key, sides: tuple[_Side, _Side]) -> CellVerdict:
    old, new = sides
    if old.against != new.against:
        raise UsageError(
            f"--compare: {baseline_of([old.against, new.against])} was timed in one run only; time it in both"
        )
    counts = (len(old.rounds), len(new.rounds)), (old.disturbed, new.disturbed), (old.few, new.few)
    return CellVerdict(*key, new.against, "INCONCLUSIVE", *counts)


def _judge(cells: Sequence[CellVerdict], pairs: Sequence[tuple[_Side, _Side]], limit: float) -> list[CellVerdict]:
    """Fill numbers and verdicts into the cells with enough runs: three of both sides together."""
    values = [_values(*sides) for sides in pairs]
    variances = [run_variance(*pair) for pair in values if pair is not None]
    # a few runs may agree by chance, so no cell is assumed to be steadier than the median cell of the same runs. By
    # simulation, with one stored run whose rounds have two modes, intervals hold in 95.7 % with this floor and in 92.6
    # % without
    floor = median(variances) if variances else 0.0
    differences = [None if pair is None else differ(*pair, floor) for pair in values]
    log_limit = math.log1p(limit / 100)
    tried = [item for item in differences if item is not None]
    slower = (p <= LEVEL for p in holm([item.tail_above(log_limit) for item in tried]))
    return [
        cell if item is None else _decided(cell, item, next(slower), log_limit, LEVEL / len(tried))
        for cell, item in zip(cells, differences, strict=True)
    ]


def _values(old: _Side, new: _Side) -> tuple[list[float], list[float]] | None:
    if not old.rounds or not new.rounds or len(old.rounds) + len(new.rounds) < 3:
        return None
    rounds = min(map(len, (*old.rounds, *new.rounds)))
    return old.values(rounds), new.values(rounds)


def _decided(cell: CellVerdict, difference: Difference, slower: bool, log_limit: float, level: float) -> CellVerdict:
    low, high = difference.log_ratio - difference.reach(LEVEL), difference.log_ratio + difference.reach(LEVEL)
    verdict: Verdict = "FAIL" if slower else "PASS" if high <= log_limit else "INCONCLUSIVE"
    count = 1 / cell.runs[0] + 1 / cell.runs[1]
    return replace(
        cell,
        verdict=verdict,
        slowdown_percent=_percent(difference.log_ratio),
        ci_percent=(_percent(low), _percent(high)),
        spread_percent=_percent(difference.standard_error / math.sqrt(count)),
        detectable_percent=_percent(
            log_limit + difference.reach(level) + student_t(_MISSED, difference.df) * difference.standard_error
        ),
    )


def _machine(key: Key, old: Sequence[_Rows], new: Sequence[_Rows]) -> MachineRow:
    network, engine, batch, threads = key
    then, now = (median(median(rows[key]["round_medians_ms"]) for rows in runs if key in rows) for runs in (old, new))
    return {
        "network": network,
        "engine": engine,
        "batch": batch,
        "threads": threads,
        "change_percent": 100 * (now / then - 1),
    }


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(min(log_ratio, 50.0))  # an interval from three runs can be wider than a float holds


def _key(row: ComparedRow) -> Key:
    return row["network"], row["engine"], row["batch"], row["threads"]


def _name(key: Key) -> str:
    network, engine, batch, threads = key
    return f"{network} {engine} batch {batch} threads {threads}"
