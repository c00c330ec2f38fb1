"""The regression check of a fresh run; cells it can't decide are measured again before it says INCONCLUSIVE."""

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

from resnetrt.benchmarks.lab import Lab
from resnetrt.benchmarks.lab_findings import Findings
from resnetrt.benchmarks.lab_plan import LabOptions, Subject
from resnetrt.benchmarks.lab_time import Shares
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
    record["regression"] = found.to_json()  # should the rest be interrupted
    for _ in range(MORE):
        if not found.unsure:
            break
        say(f"undecided, measured again: {', '.join(f'{name} batch {batch}' for name, batch in sorted(found.unsure))}")
        again = measure_groups(subjects, replace(options, budget_s=None), found.unsure)
        rows = merge_rows(rows, again)
        found = compare_runs(old, rows, limit_percent)
        record["regression"] = found.to_json()
    return found


def measure_groups(
    subjects: Sequence[Subject], options: LabOptions, groups: Set[tuple[str, int]]
) -> list[dict[str, Any]]:
    """Rows of the given networks and batches only, measured anew."""
    rows = []
    for subject in subjects:
        name = subject.bundle.manifest.name
        batches = [batch for batch in options.batches if (name, batch) in groups]
        if batches:
            found = Findings()
            chosen = replace(options, batches=batches, end_to_end=False, memory=False, profile=None)
            Lab(chosen, found, Shares(None), lambda _: None, lambda: None).measure(subject)
            rows += found.results
    return rows
