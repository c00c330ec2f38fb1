"""The JSON of an earlier `bench`, `verify` or `evaluate`, read back."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from resnetrt.benchmarks.depth.bench_record import BenchRecord
from resnetrt.benchmarks.depth.fit import break_even, fit_all
from resnetrt.benchmarks.measure.timing import CONFIDENCE, ENOUGH_ROUNDS
from resnetrt.errors import EnvironmentFault, UsageError, reason
from resnetrt.fields import JsonObject

_ANY = "resnetrt bench, verify or evaluate"
_NUMBERS = ("n", "top1", "fp32_top1", "drop_pp")  # of a row of `evaluate`, beside its interval
_LIVE = ("max_abs", "sqnr_db", "top1_agreement")  # of a row of `verify` that was run


@dataclass(frozen=True)
class ResultFiles:
    """What several result files hold, by the name of the file; the order is that in which they were named."""

    bench: dict[str, BenchRecord] = field(default_factory=dict)
    verify: dict[str, JsonObject] = field(default_factory=dict)
    evaluate: dict[str, JsonObject] = field(default_factory=dict)


def read_results(paths: Sequence[Path]) -> ResultFiles:
    """The results in `paths`, each of `bench`, `verify --json` or `evaluate --json`, also of another machine.

    Raises `EnvironmentFault` for an unreadable file, `UsageError` for one that is none of these.
    """
    files = ResultFiles()
    for path in paths:
        record = _read_object(path, _ANY)
        rows = record.get("engines")
        if isinstance(record.get("results"), list):  # that of evaluate is the name of a file
            files.bench[str(path)] = _bench_record(record, path)
        elif _is_list_of(rows, _is_accuracy) and isinstance(record.get("conditions"), dict):
            files.evaluate[str(path)] = record
        elif _is_list_of(rows, _is_parity) and isinstance(record.get("conditions"), dict):
            files.verify[str(path)] = record
        else:
            raise UsageError(
                f"{path}: expected results[] of bench --out, or engines[] and conditions of verify --json or evaluate "
                f"--json, found {', '.join(record) or 'an empty object'}"
            )
    return files


def read_record(path: Path, complete: bool = True) -> BenchRecord:
    """An earlier `bench.json`; with `complete`, only that of a finished run.

    Raises `EnvironmentFault` for an unreadable file, `UsageError` for one that is no such run.
    """
    record = _bench_record(_read_object(path, "resnetrt bench"), path)
    if complete and record.get("complete") is False:
        raise UsageError(
            f"{path}: expected a finished run to compare with, found one that was interrupted; run it again, or "
            f"finish it with --resume {path}"
        )
    return record


def _bench_record(record: JsonObject, path: Path) -> BenchRecord:
    if not isinstance(record.get("results"), list) or not isinstance(record.get("conditions"), dict):
        raise UsageError(f"{path}: expected results[] and conditions of resnetrt bench, found {', '.join(record)}")
    return _learnt_again(_without_factors_of_few_rounds(cast(BenchRecord, record)))


def _learnt_again(record: BenchRecord) -> BenchRecord:
    """Fit again: earlier lines had no intervals and could start below zero; INT8 ratios ignored offsets of runs."""
    rows = record["results"]
    if any("fixed_ms_ci" not in fit for fit in record.get("fits", ())):
        record["fits"] = fit_all(rows)
    if any("offset_percent" not in line for line in record.get("break_even", ())):
        record["break_even"] = break_even(rows)
    return record


def _without_factors_of_few_rounds(record: BenchRecord) -> BenchRecord:
    """Drop factors from few rounds, which earlier versions stored."""
    for row in record["results"]:
        if len(row.get("round_medians_ms", range(ENOUGH_ROUNDS))) < ENOUGH_ROUNDS:
            row["times_faster"] = row["times_faster_ci"] = None
    for rival in record.get("against_peers", ()):
        confidence = cast(Mapping[str, Any], rival).get("ci_confidence", CONFIDENCE)  # of earlier versions only
        if confidence < CONFIDENCE:
            rival["ratio"] = rival["ratio_ci"] = None
            rival["rounds"] = _rounds(confidence)
    return record


def _rounds(confidence: float) -> int:
    """The number of rounds n whose whole range has this low confidence, `1 - 2 * 0.5**n`."""
    return round(1 - math.log2(1 - confidence))


def _read_object(path: Path, tool: str) -> JsonObject:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise EnvironmentFault(f"{path}: expected the JSON of {tool}, found {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected the JSON of {tool}, found {reason(error)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected the JSON of {tool}, found a {type(content).__name__}")
    return content


def _is_list_of(rows: Any, is_row: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether these are rows of engines; at least one, since an empty list tells nothing."""
    return isinstance(rows, list) and bool(rows) and all(_names_engine(row) and is_row(row) for row in rows)


def _names_engine(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("engine"), str)


def _is_accuracy(row: Mapping[str, Any]) -> bool:
    interval = row.get("drop_ci_pp")
    if not isinstance(interval, list) or len(interval) != 2:
        return False
    return all(isinstance(value, int | float) for value in (*interval, *map(row.get, _NUMBERS)))


def _is_parity(row: Mapping[str, Any]) -> bool:
    live = row.get("live", ())
    numbers = live is None or (isinstance(live, Mapping) and all(isinstance(live.get(n), int | float) for n in _LIVE))
    return numbers and isinstance(row.get("verdict"), str) and isinstance(row.get("problems"), list)
