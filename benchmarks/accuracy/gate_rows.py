"""One row for each engine: its accuracy beside the reference's, and under a budget the gate's verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy.comparison import AccuracyRow, Outcomes, PairedOutcomes
from resnetrt.benchmarks.accuracy.gate import WHOLE, Budget, Labels, Pairs, Spending, Verdict, judge_pairs, question


@dataclass(frozen=True)
class Look:
    """The `number` of this look at an engine, None if looks are not kept, and how many `verdicts` share one FAIL."""

    number: int | None
    verdicts: int

    def to_json(self) -> dict[str, Any]:
        """Its part of a row of `evaluate`."""
        return {"look": self.number, "verdicts": self.verdicts}


@dataclass(frozen=True)
class JudgedPairs:
    """The verdict on an engine, and the pairs that it was given on."""

    pairs: Pairs
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Its part of a row of `evaluate`."""
        return {"lost": self.pairs.lost, "gained": self.pairs.gained, **self.verdict.to_json()}


@dataclass(frozen=True)
class GateRow:
    """What the gate knows of one engine. `judged` is None without a budget, `look` outside `evaluate`.

    Every image counts once: `copies` are those left out because they are pixel-identical to another image, with the
    same label or a different one. `fp32_ece` and `ece` are calibration errors, as shares.
    """

    accuracy: AccuracyRow
    copies: int
    fp32_ece: float
    ece: float
    judged: JudgedPairs | None = None
    look: Look | None = None

    @property
    def engine(self) -> str:
        """The engine's id."""
        return self.accuracy.engine

    @property
    def decision(self) -> Verdict | None:
        """The verdict with its bounds and its reason."""
        return None if self.judged is None else self.judged.verdict

    @property
    def verdict(self) -> str | None:
        """PASS, FAIL or INCONCLUSIVE."""
        return None if self.decision is None else self.decision.verdict

    @property
    def ece_change_pp(self) -> float:
        """How much larger the engine's calibration error is than the reference's."""
        return 100 * (self.ece - self.fp32_ece)

    def overruled(self, why: str) -> "GateRow":
        """The row with a FAIL for a reason other than its statistics, unless it fails by them."""
        if self.judged is None:
            return self
        return replace(self, judged=replace(self.judged, verdict=self.judged.verdict.overruled(why)))

    def to_json(self) -> dict[str, Any]:
        """The row of an engine of `evaluate --json`, `deploy --json` and `report.json`."""
        return {
            **self.accuracy.to_json(),
            "copies": self.copies,
            "agreement_percent": 100 - self.accuracy.flips_percent,
            "fp32_ece_percent": 100 * self.fp32_ece,
            "ece_percent": 100 * self.ece,
            "ece_change_pp": self.ece_change_pp,
            **({} if self.judged is None else self.judged.to_json()),
            **({} if self.look is None else self.look.to_json()),
        }


def gate_rows(
    comparison: PairedOutcomes,
    budget: Budget | None,
    class_names: Sequence[str] = (),
    spendings: Mapping[str, tuple[Spending, Spending]] | None = None,
) -> list[GateRow]:
    """One row per engine of `comparison`, with a verdict if there is a `budget`.

    `spendings` are each engine's spending for this look and for the next, by default all of `1 - confidence`.
    """
    everything, comparison = len(comparison.labels), comparison.distinct()
    labels, reference = comparison.labels, comparison.reference
    reference_ece = calibration_error(reference, labels)
    rows = []
    for accuracy, (name, outcomes) in zip(comparison.accuracy(), comparison.candidates.items(), strict=True):
        judged = None
        if budget is not None:
            reference_right = reference.predicted == labels
            pairs = Pairs.count(reference_right, outcomes.predicted == labels, comparison.groups)
            verdict = judge_pairs(pairs, budget, *(spendings or {}).get(name, (WHOLE, WHOLE)))
            judged = JudgedPairs(
                pairs, question(verdict, reference_right, labels, budget, class_names, comparison.groups)
            )
        ece = calibration_error(outcomes, labels)
        rows.append(GateRow(accuracy, everything - len(labels), reference_ece, ece, judged))
    return rows


def calibration_error(outcomes: Outcomes, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error: the mean over images of |confidence - accuracy| of their bin; bins have equal width.

    Guo et al. (2017), arXiv:1706.04599, equation 3.
    """
    index = np.minimum((outcomes.confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, weights=outcomes.confidence - (outcomes.predicted == labels), minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
