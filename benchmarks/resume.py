"""Going on with a run that was interrupted or out of budget: only with the same request, machine and state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.lab_findings import SPENT
from resnetrt.benchmarks.latency_regression import differences, read_record
from resnetrt.errors import UsageError


def read_partial(path: Path, request: Mapping[str, Any], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The `bench.json` of an unfinished run that asked for `request` under `conditions`.

    Raises `UsageError` for anything else, naming all that differs. Only the budget may. Unlike in a comparison the
    source's revision counts: half a run of one and half of another is a run of neither.
    """
    partial = read_record(path, complete=False)
    if partial.get("complete") is not False and not any(line.endswith(SPENT) for line in partial.get("left_out", ())):
        raise UsageError(f"--resume {path}: expected an interrupted run, found a finished one; compare with --compare")
    differing = [
        *differences(partial.get("request", {}), request),
        *differences(_without_budget(partial["conditions"]), _without_budget(conditions)),
    ]
    if differing:
        raise UsageError(f"--resume {path}: expected the same run, found {'; '.join(differing)}; start it anew")
    return partial


def _without_budget(conditions: Mapping[str, Any]) -> dict[str, Any]:
    schedule = {name: value for name, value in conditions.get("schedule", {}).items() if name != "budget_s"}
    return {**conditions, "schedule": schedule}
