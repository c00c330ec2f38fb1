"""The JSON of an earlier `bench` or `evaluate`, read back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.depth.fit import break_even, fit_all
from resnetrt.benchmarks.measure.timing import CONFIDENCE, ENOUGH_ROUNDS
from resnetrt.errors import EnvironmentFault, UsageError, reason

# the fields that the picture of accuracy against latency draws
_NUMBERS = ("n", "top1", "fp32_top1", "drop_pp")


def read_record(path: Path, complete: bool = True) -> dict[str, Any]:
    """An earlier `bench.json`; with `complete`, only that of a finished run.

    Raises `EnvironmentFault` for an unreadable file, `UsageError` for one that is no such run.
    """
    record = _read_object(path, "resnetrt bench")
    if not isinstance(record.get("results"), list) or not isinstance(record.get("conditions"), dict):
        raise UsageError(f"{path}: expected results[] and conditions of resnetrt bench, found {', '.join(record)}")
    if complete and record.get("complete") is False:
        raise UsageError(
            f"{path}: expected a finished run to compare with, found one that was interrupted; run it again, or "
            f"finish it with --resume {path}"
        )
    return _learnt_again(_without_factors_of_few_rounds(record))


def _learnt_again(record: dict[str, Any]) -> dict[str, Any]:
    """Fit again: earlier lines had no intervals and could start below zero; INT8 ratios ignored offsets of runs."""
    rows = record["results"]
    if any("fixed_ms_ci" not in fit for fit in record.get("fits", ())):
        record["fits"] = fit_all(rows)
    if any("offset_percent" not in found for found in record.get("break_even", ())):
        record["break_even"] = break_even(rows)
    return record


def _without_factors_of_few_rounds(record: dict[str, Any]) -> dict[str, Any]:
    """Drop factors from few rounds, which earlier versions stored."""
    for row in record["results"]:
        if len(row.get("round_medians_ms", range(ENOUGH_ROUNDS))) < ENOUGH_ROUNDS:
            row |= {"times_faster": None, "times_faster_ci": None}
    for row in record.get("against_peers", ()):
        if row.get("ci_confidence", CONFIDENCE) < CONFIDENCE:
            row |= {"ratio": None, "ratio_ci": None, "rounds": _rounds(row)}
    return record


def _rounds(row: Mapping[str, Any]) -> int:
    """The number of rounds n whose whole range has this low confidence, `1 - 2 * 0.5**n`."""
    return round(1 - math.log2(1 - row["ci_confidence"]))


def read_accuracy(path: Path) -> list[dict[str, Any]]:
    """The `engines[]` of `evaluate --json`, reduced to what a picture needs.

    Raises `EnvironmentFault` for an unreadable file, `UsageError` for one without such rows.
    """
    rows = _read_object(path, "resnetrt evaluate").get("engines")
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        expected = f"engines[] with engine, {', '.join(_NUMBERS)} and drop_ci_pp"
        raise UsageError(f"{path}: expected {expected} of resnetrt evaluate --json, found others")
    return rows


def _read_object(path: Path, tool: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise EnvironmentFault(f"{path}: expected the JSON of {tool}, found {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected the JSON of {tool}, found {reason(error)}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected the JSON of {tool}, found a {type(found).__name__}")
    return found


def _is_row(row: Any) -> bool:
    if not isinstance(row, Mapping) or not isinstance(row.get("engine"), str):
        return False
    interval = row.get("drop_ci_pp")
    if not isinstance(interval, list) or len(interval) != 2:
        return False
    return all(isinstance(value, int | float) for value in (*interval, *map(row.get, _NUMBERS)))
