"""What one run of `evaluate` found: the object of `evaluate --json`, with types."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnetrt.benchmarks.accuracy.classes import ClassDrop
from resnetrt.benchmarks.accuracy.gate import Budget, overall
from resnetrt.benchmarks.accuracy.gate_rows import GateRow
from resnetrt.benchmarks.accuracy.releases import ReleaseRow
from resnetrt.benchmarks.evaluate.flips import Flip


@dataclass(frozen=True)
class EvaluatedEngine:
    """The gate's row of an engine with what explains it.

    `selftest` is what its self-test found wrong. `classes` and `hints` (likely causes) are None without a budget.
    """

    gate: GateRow
    selftest: str | None
    flips: tuple[Flip, ...]
    classes: tuple[ClassDrop, ...] | None = None
    hints: tuple[str, ...] | None = None

    def losing_classes(self, most: int) -> list[ClassDrop]:
        """At most so many classes that clearly lose."""
        return [drop for drop in self.classes or () if drop.loses][:most]

    def to_json(self) -> dict[str, Any]:
        """The row under `engines[]` of `evaluate --json`."""
        return {
            **self.gate.to_json(),
            "selftest": self.selftest,
            "flips": [flip.to_json() for flip in self.flips],
            **({} if self.classes is None else {"classes": [drop.to_json() for drop in self.classes]}),
            **({} if self.hints is None else {"hints": list(self.hints)}),
        }


@dataclass(frozen=True)
class EvaluateRecord:
    """One run over a bundle. `baseline` are the changes since an older run; `conditions` are those of this one."""

    bundle: str
    data: str
    reference: str
    reference_why: str
    budget: Budget | None
    engines: tuple[EvaluatedEngine, ...]
    baseline: tuple[ReleaseRow, ...]
    group_by: str | None
    results: str | None
    conditions: Mapping[str, Any]

    @property
    def verdict(self) -> str | None:
        """The worst verdict of all; None without a budget."""
        return overall([*(row.gate.verdict for row in self.engines), *(row.verdict for row in self.baseline)])

    def to_json(self) -> dict[str, Any]:
        """The object of `evaluate --json`."""
        record = {
            "bundle": self.bundle,
            "data": self.data,
            "reference": self.reference,
            "reference_why": self.reference_why,
            "budget": self.budget and self.budget.to_json(),
            "budget_text": self.budget and str(self.budget),
            "verdict": self.verdict,
            "engines": [row.to_json() for row in self.engines],
            "baseline": [row.to_json() for row in self.baseline],
            "group_by": self.group_by,
            "results": self.results,
            "conditions": self.conditions,
        }
        return dict(json.loads(json.dumps(record)))  # plain values only; an error shows here rather than in printing
