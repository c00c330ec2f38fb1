"""Going on with a run that was interrupted or out of budget: only with the same request, machine and state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.compare.records import read_record
from resnetrt.benchmarks.compare.same_conditions import differences
from resnetrt.benchmarks.depth.findings import SPENT
from resnetrt.errors import UsageError


def read_partial(path: Path, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The `bench.json` of an unfinished run under `conditions`; whether it asked for the same is for `check_request`.

    Raises `UsageError` for anything else, naming all that differs. Only the budget may. Unlike in a comparison the
    source's revision counts: half a run of one and half of another is a run of neither.
    """
    partial = read_record(path, complete=False)
    if partial.get("complete") is not False and not any(line.endswith(SPENT) for line in partial.get("left_out", ())):
        raise UsageError(f"--resume {path}: expected an interrupted run, found a finished one; compare with --compare")
    _refuse(path, differences(_without_budget(partial["conditions"]), _without_budget(conditions)))
    return partial


def check_request(path: Path, partial: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless the run in `path` asked for `request`, naming all that differs."""
    _refuse(path, differences(_spread(partial.get("request", {})), _spread(request)))


def _refuse(path: Path, differing: Sequence[str]) -> None:
    if differing:
        raise UsageError(f"--resume {path}: expected the same run, found {'; '.join(differing)}; start it anew")


def _spread(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with the content of each network apart, so that only what differs is named."""
    content = request.get("content", {})
    files = {f"{network}/{name}": found for network in content for name, found in content[network].items()}
    return {name: value for name, value in request.items() if name != "content"} | files


def _without_budget(conditions: Mapping[str, Any]) -> dict[str, Any]:
    schedule = {name: value for name, value in conditions.get("schedule", {}).items() if name != "budget_s"}
    return {**conditions, "schedule": schedule}
