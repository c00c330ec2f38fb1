"""Is this run slower than an earlier one? Intervals over rounds, normalised to the baseline of the same run.

Never a bare ratio of two noisy means: each cell's rounds are divided by the same rounds of eager, which takes the
machine's mood of the day out, and the slowdown comes with an interval. A run under other conditions is refused.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.latency import BASELINE
from resnetrt.benchmarks.timing import CONFIDENCE, ENOUGH_ROUNDS
from resnetrt.errors import UsageError

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Row = Mapping[str, Any]
Key = tuple[str, str, int, int]
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
# what is under test itself may differ
_MAY_DIFFER = {"revision", "versions.resnetrt", "schedule"}
_MISSING = "nothing"
_RESAMPLES = 4000


@dataclass(frozen=True)
class CellVerdict:
    """`slowdown_percent` of one cell against the earlier run, its 95 % interval, and what follows from it.

    `against` says what the times were divided by: `eager-fp32`, or `time` where the cell is the baseline itself or
    there is none. `rounds` are those of the earlier run and of this one: where either has too few for a 95 % interval,
    the verdict is INCONCLUSIVE, and there is no number.
    """

    network: str
    engine: str
    batch: int
    threads: int
    slowdown_percent: float | None
    ci_percent: tuple[float, float] | None
    against: str
    verdict: Verdict
    disturbed: bool
    rounds: tuple[int, int]


@dataclass(frozen=True)
class Regression:
    """The verdicts of all cells that both runs have; `only_old` and `only_new` name the others."""

    limit_percent: float
    cells: tuple[CellVerdict, ...]
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """FAIL if a cell fails or an old one is gone, else INCONCLUSIVE if one is, else PASS."""
        found = {cell.verdict for cell in self.cells}
        if "FAIL" in found or self.only_old:
            return "FAIL"
        return "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"

    @property
    def unsure(self) -> set[tuple[str, int]]:
        """Network and batch of the cells that more rounds may decide."""
        return {
            (cell.network, cell.batch)
            for cell in self.cells
            if cell.verdict == "INCONCLUSIVE" and cell.rounds[0] >= ENOUGH_ROUNDS
        }

    def to_json(self) -> dict[str, Any]:
        """The record under `regression` of `bench --json`."""
        cells = [asdict(cell) for cell in self.cells]
        return {"verdict": self.verdict, "max_slowdown_percent": self.limit_percent, "cells": cells} | {
            "only_old": list(self.only_old),
            "only_new": list(self.only_new),
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


def check_conditions(old: Mapping[str, Any], new: Mapping[str, Any], accept: Iterable[str] = ()) -> None:
    """Raise `UsageError` naming every condition that differs, save those in `accept` and what is under test."""
    differing = differences(old, new, {*_MAY_DIFFER, *accept})
    if differing:
        raise UsageError(
            f"--compare: the runs' conditions differ: {'; '.join(differing)}; "
            "measure the old revision again here, or accept one by name with --accept"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], accepted: Container[str] = ()) -> list[str]:
    """Every condition that differs, then and now, save those that are accepted."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name} {before.get(name, _MISSING)} then, {after.get(name, _MISSING)} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and name not in accepted
    ]


def compare_runs(old: Sequence[Row], new: Sequence[Row], limit_percent: float) -> Regression:
    """Compare `results[]` of two runs, cell by cell. Raises `UsageError` if they share no cell."""
    before, after = {_key(row): row for row in old}, {_key(row): row for row in new}
    shared = [key for key in after if key in before]
    if not shared:
        raise UsageError("--compare: expected a cell that both runs measured, found none; use the same networks")
    cells = [_judge(key, before, after, limit_percent) for key in shared]
    return Regression(
        limit_percent,
        tuple(cells),
        tuple(_name(key) for key in before if key not in after),
        tuple(_name(key) for key in after if key not in before),
    )


def merge_rows(first: Sequence[Row], second: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of `first` with the rounds of the same cells in `second` appended; other numbers stay the first's.

    Rounds pair the cells that are measured side by side, so these grow together: not where one of them, a peer that is
    gone, has no more rounds.
    """
    more = {_key(row): row["round_medians_ms"] for row in second}
    short = {_group(row) for row in first if _key(row) not in more}
    return [
        {**row, "round_medians_ms": [*row["round_medians_ms"], *(() if _group(row) in short else more[_key(row)])]}
        for row in first
    ]


def _judge(key: Key, before: Mapping[Key, Row], after: Mapping[Key, Row], limit: float) -> CellVerdict:
    (then, against), (now, against_now) = _normalised(key, before), _normalised(key, after)
    if against != against_now:
        raise UsageError(f"--compare: {BASELINE} was timed in one run only; time it in both")
    rounds = len(then), len(now)
    disturbed = bool(before[key].get("disturbed") or after[key].get("disturbed"))
    if min(rounds) < ENOUGH_ROUNDS:  # a bootstrap of one round has no width, and would always decide
        return CellVerdict(*key, None, None, against, "INCONCLUSIVE", disturbed, rounds)
    value, low, high = slowdown(then, now)
    verdict: Verdict = "PASS" if high <= limit else "FAIL" if low > limit else "INCONCLUSIVE"
    return CellVerdict(*key, value, (low, high), against, verdict, disturbed, rounds)


def _normalised(key: Key, rows: Mapping[Key, Row]) -> tuple[npt.NDArray[np.float64], str]:
    """The cell's rounds over the baseline's same rounds, and what they were divided by."""
    network, engine, batch, threads = key
    times = np.asarray(rows[key]["round_medians_ms"], np.float64)
    baseline = rows.get((network, BASELINE, batch, threads))
    if engine == BASELINE or baseline is None:
        return times, "time"
    return times / np.asarray(baseline["round_medians_ms"], np.float64), BASELINE


def slowdown(old: npt.ArrayLike, new: npt.ArrayLike) -> tuple[float, float, float]:
    """How much larger the median of `new` is than that of `old`, in percent, with its 95 % bootstrap interval.

    Rounds are resampled in both (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13); seeded, so equal
    results give equal verdicts.
    """
    a, b = np.asarray(old, np.float64), np.asarray(new, np.float64)
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(values, (_RESAMPLES, len(values))), axis=1) for values in (a, b)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(medians[1] / medians[0], [tail, 100 - tail])
    value = np.median(b) / np.median(a)
    return tuple(float(100 * (ratio - 1)) for ratio in (value, low, high))  # type: ignore[return-value]


def verdict_text(cell: Mapping[str, Any]) -> str:
    """The verdict of a cell of `regression` of `bench --json`, and whether it has too few rounds for another."""
    then, now = cell.get("rounds", (ENOUGH_ROUNDS, ENOUGH_ROUNDS))
    why = f": {then} rounds then, {now} now, {ENOUGH_ROUNDS} needed" if min(then, now) < ENOUGH_ROUNDS else ""
    return f"{cell['verdict']}{why}"


def slowdown_text(cell: Mapping[str, Any]) -> tuple[str, str]:
    """The slowdown of a cell in percent and its interval; `-` where too few rounds give none."""
    if cell["slowdown_percent"] is None:
        return "-", "-"
    low, high = cell["ci_percent"]
    return f"{cell['slowdown_percent']:+.1f}", f"{low:+.1f} to {high:+.1f}"


def changed_cells(regression: Mapping[str, Any]) -> list[str]:
    """A line for each cell that only one of the two runs has, of `regression` of `bench --json`."""
    gone = [f"gone, which fails: {name}" for name in regression.get("only_old", ())]
    return gone + [f"new: {name}" for name in regression.get("only_new", ())]


def _group(row: Row) -> tuple[str, int, int]:
    return row["network"], row["batch"], row["threads"]


def _key(row: Row) -> Key:
    return row["network"], row["engine"], row["batch"], row["threads"]


def _name(key: Key) -> str:
    network, engine, batch, threads = key
    return f"{network} {engine} batch {batch} threads {threads}"


def _flat(conditions: Mapping[str, Any]) -> dict[str, Any]:
    versions = {f"versions.{name}": value for name, value in conditions.get("versions", {}).items()}
    return {name: value for name, value in conditions.items() if name != "versions"} | versions
