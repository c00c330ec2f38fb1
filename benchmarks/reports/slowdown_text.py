"""A regression check in words, from `regression` of `bench --json`, also of earlier versions."""

from collections.abc import Mapping
from typing import Any

from resnetrt.benchmarks.measure.latency import BASELINE, BASELINES
from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS

_WORTH_SAYING = 5.0  # least change of eager's time that is reported, in percent
VERDICT_HEADER = ("network", "engine", "batch", "slowdown %", "95 % interval", "runs", "finds from %", "verdict")


def verdict_cells(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a table under `VERDICT_HEADER`."""
    runs = cell.get("runs", (1, 1))
    names = cell["network"], cell["engine"], str(cell["batch"])
    found = cell.get("detectable_percent")
    finds = "-" if found is None else f"+{found:.1f}"
    return (*names, *slowdown_text(cell), f"{runs[0]} / {runs[1]}", finds, verdict_text(cell))


def verdict_text(cell: Mapping[str, Any]) -> str:
    """The verdict of a cell, why it is not a better one, and whether a baseline is missing."""
    why = list(_why(cell)) if cell["verdict"] == "INCONCLUSIVE" else []
    if cell["against"] not in BASELINES and cell["engine"] not in BASELINES:
        why.append(f"by time, without {BASELINE}")
    return f"{cell['verdict']}{': ' if why else ''}{'; '.join(why)}"


def _why(cell: Mapping[str, Any]) -> list[str]:
    if "runs" not in cell:  # from an earlier version: one run per side
        then, now = cell.get("rounds", (ENOUGH_ROUNDS, ENOUGH_ROUNDS))
        return [f"{then} rounds then, {now} now, {ENOUGH_ROUNDS} needed"] if min(then, now) < ENOUGH_ROUNDS else []
    why = [
        f"{cell[name][0]} runs then, {cell[name][1]} now {what}"
        for name, what in (("disturbed", "disturbed"), ("few_rounds", f"of fewer than {ENOUGH_ROUNDS} rounds"))
        if any(cell[name])
    ]
    then, now = cell["runs"]
    if cell["ci_percent"] is None and not why:
        why.append(f"{then} run then, {now} now tell no spread between runs; measure more with --runs 5")
    return why


def slowdown_text(cell: Mapping[str, Any]) -> tuple[str, str]:
    """The slowdown of a cell in percent and its interval; `-` if there are too few runs."""
    if cell["slowdown_percent"] is None:
        return "-", "-"
    low, high = cell["ci_percent"]
    return f"{cell['slowdown_percent']:+.1f}", f"{low:+.1f} to {high:+.1f}"


def other_lines(regression: Mapping[str, Any]) -> list[str]:
    """A line for each cell that only one side has, and for the machine's own change if that is 5 % or more."""
    lines = [f"gone, which fails: {name}" for name in regression.get("only_old", ())]
    lines += [f"new: {name}" for name in regression.get("only_new", ())]
    lines += [
        f"{row.get('engine', BASELINE)} itself took {row['change_percent']:+.1f} % of its time, "
        f"{row['network']} batch {row['batch']}: "
        "the machine, no verdict"
        for row in regression.get("machine", ())
        if abs(row["change_percent"]) >= _WORTH_SAYING
    ]
    return lines
