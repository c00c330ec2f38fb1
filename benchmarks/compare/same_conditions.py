"""Which runs belong together: a comparison needs the same conditions, resuming also the same request and source.

What is under test may differ between two runs that are compared, but not between the two halves of one run.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.compare.records import read_record
from resnetrt.benchmarks.depth.bench_record import BenchRecord, Conditions, LabRequest
from resnetrt.benchmarks.depth.findings import SPENT
from resnetrt.errors import UsageError

_MAY_DIFFER = {"revision", "versions.resnetrt", "schedule"}
_MISSING = "nothing"


def check_conditions(old: Conditions, new: Conditions, accept: Iterable[str] = ()) -> None:
    """Raise `UsageError` naming every condition that differs, except those in `accept` and what is under test."""
    differing = differences(old, new, {*_MAY_DIFFER, *accept})
    if differing:
        raise UsageError(
            f"--compare: the runs' conditions differ: {'; '.join(differing)}; "
            "measure the old revision again here, or accept one by name with --accept"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], accepted: Container[str] = ()) -> list[str]:
    """Every condition that differs, with its old and new value, except the accepted ones."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name} {before.get(name, _MISSING)} then, {after.get(name, _MISSING)} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and name not in accepted
    ]


def read_partial(path: Path, conditions: Conditions) -> BenchRecord:
    """The `bench.json` of an unfinished run under `conditions`; `check_request` then compares the requests.

    Raises `UsageError` for anything else, naming all that differs; only the budget may differ. Unlike in a comparison,
    the revision of the source must be the same: a run must not mix two revisions.
    """
    partial = read_record(path, complete=False)
    if partial.get("complete") is not False and not any(line.endswith(SPENT) for line in partial.get("left_out", ())):
        raise UsageError(f"--resume {path}: expected an interrupted run, found a finished one; compare with --compare")
    _refuse(path, differences(_without_budget(partial["conditions"]), _without_budget(conditions)))
    return partial


def check_request(path: Path, partial: BenchRecord, request: LabRequest) -> None:
    """Raise `UsageError` unless the run in `path` asked for `request`, naming all that differs."""
    _refuse(path, differences(_spread(partial.get("request")), _spread(request)))


def _refuse(path: Path, differing: Sequence[str]) -> None:
    if differing:
        raise UsageError(f"--resume {path}: expected the same run, found {'; '.join(differing)}; start it anew")


def _spread(request: LabRequest | None) -> Mapping[str, object]:
    """The request with one entry for the content of each network, so that only what differs is named."""
    if request is None:
        return {}
    content = request.get("content", {})
    files = {f"{network}/{name}": hashed for network in content for name, hashed in content[network].items()}
    return {name: value for name, value in request.items() if name != "content"} | files


def _without_budget(conditions: Conditions) -> Conditions:
    schedule = {name: value for name, value in conditions.get("schedule", {}).items() if name != "budget_s"}
    return {**conditions, "schedule": schedule}


def _flat(conditions: Mapping[str, Any]) -> Mapping[str, object]:
    versions = {f"versions.{name}": value for name, value in conditions.get("versions", {}).items()}
    return {name: value for name, value in conditions.items() if name != "versions"} | versions
