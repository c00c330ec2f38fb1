"""The regression check of a fresh run; cells it can't decide are measured again before it says INCONCLUSIVE."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from resnetrt.benchmarks.lab import LabOptions, Subject, measure_groups
from resnetrt.benchmarks.latency_regression import Regression, compare_runs, merge_rows

MORE = 2  # times that undecided cells are measured again


def compare_with_more_rounds(
    old: Sequence[dict[str, Any]],
    record: dict[str, Any],
    subjects: Sequence[Subject],
    options: LabOptions,
    limit_percent: float,
    say: Callable[[str], None],
) -> Regression:
    """Compare `record` with the rows of an earlier run; the verdicts are stored in `record["regression"]`.

    More rounds of undecided cells are pooled with the first ones; `results[]` stays what the run itself measured.
    """
    rows = record["results"]
    found = compare_runs(old, rows, limit_percent)
    for _ in range(MORE):
        if not found.unsure:
            break
        say(f"undecided, measured again: {', '.join(f'{name} batch {batch}' for name, batch in sorted(found.unsure))}")
        again = measure_groups(subjects, replace(options, budget_s=None, peers=False), found.unsure)
        rows = merge_rows(rows, again)
        found = compare_runs(old, rows, limit_percent)
    record["regression"] = found.to_json()
    return found
