"""Two releases compared: an engine's old and new outcomes, image by image if both runs were stored."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy.comparison import Outcomes, PairedOutcomes
from resnetrt.benchmarks.accuracy.gate import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    STATISTICS,
    WHOLE,
    Budget,
    Pairs,
    Spending,
    Verdict,
    judge_pairs,
    question,
)
from resnetrt.benchmarks.accuracy.gate_rows import Look
from resnetrt.benchmarks.accuracy.outcomes import SUFFIX, WRITE_RESULTS, Results, read_results
from resnetrt.benchmarks.stats.noninferiority import critical, drop_interval
from resnetrt.errors import DataError, UsageError, reason

# why an engine has no partner, see `BaselineRun.unmatched`
NEW, VANISHED, NOT_ASKED = "new", "vanished", "not asked for"


@dataclass(frozen=True)
class BaselineRow:
    """What a comparison on other images needs of an engine of then; with `groups` these count, not the `n` images."""

    engine: str
    n: int
    top1: float
    groups: int | None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "BaselineRow":
        """From the row of any version's `evaluate --json`.

        Raises `KeyError`, `TypeError` or `ValueError` if it is none.
        """
        engine, n, top1 = str(stored["engine"]), int(stored["n"]), float(stored["top1"])
        groups = stored.get("groups")
        return cls(engine, n, top1, None if groups is None else int(groups))


@dataclass(frozen=True)
class BaselineRun:
    """An older run: its per-image outcomes, or only the rows of its `engines`, None where the outcomes are stored."""

    path: Path
    stored: Results | None
    engines: Mapping[str, BaselineRow | None]

    @classmethod
    def read(cls, path: Path) -> "BaselineRun":
        """Read a results file or JSON, whatever its name is. Raises `DataError` for any other file."""
        if path.suffix == SUFFIX or _begins_with_a_length(path):
            try:
                stored = read_results(path)
            except DataError as error:
                raise DataError(f"--baseline: {error}") from error
            return cls(path, stored, dict.fromkeys(stored.comparison.candidates))
        return cls(path, None, _read_rows(path))

    def pair(self, engines: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
        """The engines of this run that the baseline also has, under the same name or the name in `renamed`.

        Raises `UsageError` if there is none, or if `renamed` names an unknown engine.
        """
        for new, then in renamed.items():
            for name, known, where in ((new, engines, "this run"), (then, self.engines, "the baseline")):
                if name not in known:
                    raise UsageError(
                        f"--baseline-engine {new}={then}: expected an engine of {where}, {', '.join(known)}; "
                        f"found {name}"
                    )
        then_of = {name: renamed.get(name, name) for name in engines}
        pairs = {name: then for name, then in then_of.items() if then in self.engines}
        if not pairs:
            raise UsageError(
                f"--baseline {self.path}: expected an engine of this run, {', '.join(engines)}; found "
                f"{', '.join(self.engines) or 'none'}; if one was only renamed, say --baseline-engine NEW=OLD"
            )
        return pairs

    def unmatched(self, engines: Sequence[str], pairs: Mapping[str, str], whole: bool) -> "list[LoneEngine]":
        """A row for every engine that only one side has. A new engine is INCONCLUSIVE, a vanished one FAILs.

        If only a part of the bundle was evaluated, engines that only the baseline has were not asked for, and get no
        verdict.
        """
        new = [LoneEngine(name, None, INCONCLUSIVE, NEW) for name in engines if name not in pairs]
        gone = [name for name in self.engines if name not in pairs.values()]
        how = (FAIL, VANISHED) if whole else (None, NOT_ASKED)
        return new + [LoneEngine(name, name, *how) for name in gone]


@dataclass(frozen=True)
class LoneEngine:
    """An engine that has no partner in the other run; `why` is one of `NEW`, `VANISHED` and `NOT_ASKED`."""

    engine: str
    baseline_engine: str | None
    verdict: str | None
    why: str
    look: Look | None = None

    def to_json(self) -> dict[str, Any]:
        """The row under `baseline[]` of `evaluate --json`."""
        return {
            "engine": self.engine,
            "baseline_engine": self.baseline_engine,
            "paired": None,
            **dict.fromkeys(_NUMBERS),
            "verdict": self.verdict,
            "verdict_why": self.why,
            **({} if self.look is None else self.look.to_json()),
        }


@dataclass(frozen=True)
class ReleaseChange:
    """An engine's change since the older run; shares are in percent, drops in percentage points.

    On other images `flips_percent`, `lost` and `gained` are unknown, and `limit_pp` is the budget in points, which the
    bounds of `decision` are compared with.
    """

    engine: str
    baseline_engine: str
    n: int
    groups: int | None
    baseline_top1: float
    top1: float
    drop_pp: float
    drop_ci_pp: tuple[float, float]
    decision: Verdict
    flips_percent: float | None = None
    lost: float | None = None
    gained: float | None = None
    limit_pp: float | None = None
    look: Look | None = None

    @property
    def paired(self) -> bool:
        """Whether both runs were on the same images."""
        return self.limit_pp is None

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        return self.decision.verdict

    def to_json(self) -> dict[str, Any]:
        """The row under `baseline[]` of `evaluate --json`."""
        decision = self.decision.to_json()
        if not self.paired and self.decision.why == STATISTICS:
            del decision["verdict_why"]  # rows on other images never had it
        return {
            "engine": self.engine,
            "baseline_engine": self.baseline_engine,
            "paired": self.paired,
            "n": self.n,
            "groups": self.groups,
            "baseline_top1": self.baseline_top1,
            "top1": self.top1,
            "drop_pp": self.drop_pp,
            "drop_ci_pp": list(self.drop_ci_pp),
            "flips_percent": self.flips_percent,
            **({"lost": self.lost, "gained": self.gained} if self.paired else {"limit_pp": self.limit_pp}),
            **decision,
            **({} if self.look is None else self.look.to_json()),
        }


ReleaseRow = ReleaseChange | LoneEngine
_NUMBERS = (
    "n",
    "groups",
    "baseline_top1",
    "top1",
    "drop_pp",
    "drop_ci_pp",
    "flips_percent",
    "gate_bounds",
    "mcnemar_p",
    "more_images",
    "more_images_if_equal",
)


def compare_releases(
    comparison: PairedOutcomes,
    old: BaselineRun,
    budget: Budget,
    renamed: Mapping[str, str] | None = None,
    whole: bool = True,
    spendings: Mapping[str, tuple[Spending, Spending]] | None = None,
) -> list[ReleaseRow]:
    """One row per engine of `comparison`: its drop since the run `old`, with a verdict against `budget`.

    A results file is paired by the pixels of the images; `evaluate --json` of then has rows only, so its top-1 is
    compared as if on other images, which needs far more of them: the bounds are then of the drop in pp under either
    budget, which is `limit_pp`. Engines pair as `BaselineRun.pair` says; the others have a row of
    `BaselineRun.unmatched`. `spendings` are those of `gate_rows`.
    """
    comparison, engines = comparison.distinct(), list(comparison.candidates)
    pairs = old.pair(engines, renamed or {})
    rows: list[ReleaseRow] = []
    for new, then in pairs.items():
        spending, row = (spendings or {}).get(new, (WHOLE, WHOLE)), old.engines[then]
        if row is not None:
            rows.append(_unpaired(comparison, new, row, budget, spending[0]))
        else:
            assert old.stored is not None
            rows.append(_paired(comparison, old.stored, new, then, budget, old.path, spending))
    return rows + old.unmatched(engines, pairs, whole)


def _paired(
    comparison: PairedOutcomes,
    stored: Results,
    new: str,
    then: str,
    budget: Budget,
    path: Path,
    spending: tuple[Spending, Spending],
) -> ReleaseChange:
    before = stored.comparison.distinct()
    _, now_rows, then_rows = np.intersect1d(comparison.images, before.images, return_indices=True)
    if not len(now_rows):
        raise UsageError(f"--baseline {path}: expected images of this run, found none; evaluate the same data")
    labels, groups = comparison.labels[now_rows], comparison.groups
    groups = None if groups is None else groups[now_rows]
    if not np.array_equal(labels, before.labels[then_rows]):
        changed = int((labels != before.labels[then_rows]).sum())
        raise DataError(
            f"--baseline {path}: expected the same labels for the same images, found {changed} others; "
            "the class order has changed"
        )
    was, now = before.candidates[then].at(then_rows), comparison.candidates[new].at(now_rows)
    was_right = was.predicted == labels
    pairs = Pairs.count(was_right, now.predicted == labels, groups)
    low, high = drop_interval(pairs.lost, pairs.gained, pairs.n)
    verdict = question(judge_pairs(pairs, budget, *spending), was_right, labels, budget, groups=groups)
    return ReleaseChange(
        engine=new,
        baseline_engine=then,
        n=len(labels),
        groups=None if groups is None else pairs.n,
        baseline_top1=100 * (pairs.both + pairs.lost) / pairs.n,
        top1=100 * (pairs.both + pairs.gained) / pairs.n,
        drop_pp=pairs.drop_pp,
        drop_ci_pp=(100 * low, 100 * high),
        decision=verdict,
        flips_percent=_flips(was, now),
        lost=pairs.lost,
        gained=pairs.gained,
    )


def _flips(was: Outcomes, now: Outcomes) -> float:
    return 100 * float((was.predicted != now.predicted).mean())


def _begins_with_a_length(path: Path) -> bool:
    """Whether it begins as safetensors do, with eight bytes of length; zeros are among them, and never in JSON."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0" in file.read(8)


def _read_rows(path: Path) -> dict[str, BaselineRow]:
    try:
        rows = [BaselineRow.from_json(row) for row in json.loads(path.read_bytes())["engines"]]
    except FileNotFoundError as error:
        raise DataError(f"--baseline {path}: no such file; {WRITE_RESULTS}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--baseline {path}: expected a results file ({SUFFIX}) or the object of evaluate --json, found: "
            f"{reason(error)}"
        ) from error
    return {row.engine: row for row in rows}


def _unpaired(
    comparison: PairedOutcomes, new: str, then: BaselineRow, budget: Budget, spending: Spending
) -> ReleaseChange:
    labels, n = comparison.labels, comparison.count
    reference_right = comparison.reference.predicted == labels
    pairs = Pairs.count(reference_right, comparison.candidates[new].predicted == labels, comparison.groups)
    right = pairs.both + pairs.gained
    old_n, old_share = then.groups or then.n, then.top1 / 100
    passing, failing = spending.confidences(budget)
    _, high = newcombe(old_share, old_n, right / n, n, passing)
    low, _ = newcombe(old_share, old_n, right / n, n, failing)
    limit = budget.max_drop_pp / 100 if budget.max_drop_pp is not None else (1 - (budget.min_relative or 1)) * old_share
    word = PASS if high <= limit else FAIL if low > limit else INCONCLUSIVE
    verdict = Verdict(word, 100 * low, 100 * high)
    both = newcombe(old_share, old_n, right / n, n, 0.975)
    return ReleaseChange(
        engine=new,
        baseline_engine=then.engine,
        n=len(labels),
        groups=None if comparison.groups is None else n,
        baseline_top1=then.top1,
        top1=100 * right / n,
        drop_pp=then.top1 - 100 * right / n,
        drop_ci_pp=(100 * both[0], 100 * both[1]),
        decision=question(verdict, reference_right, labels, budget, groups=comparison.groups),
        limit_pp=100 * limit,
    )


def newcombe(first: float, first_n: int, second: float, second_n: int, confidence: float) -> tuple[float, float]:
    """Bounds of `first - second`, shares over different images; each bound alone holds with about `confidence`.

    Newcombe (1998), Statistics in Medicine 17, 873-890, method 10: a combination of Wilson's intervals.
    """
    z = critical(confidence)
    (low1, high1), (low2, high2) = _wilson(first, first_n, z), _wilson(second, second_n, z)
    difference = first - second
    low = difference - math.hypot(first - low1, high2 - second)
    high = difference + math.hypot(high1 - first, second - low2)
    return low, high


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half
