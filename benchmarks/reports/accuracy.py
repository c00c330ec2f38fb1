"""The accuracy of an engine as reports show it: of this run, or read back from an `evaluate --json` of any version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from resnetrt.benchmarks.accuracy.comparison import AccuracyRow
from resnetrt.benchmarks.measure.latency import BASELINE


class AccuracyCells(TypedDict):
    """What a summary says of an engine's accuracy; None where it is unknown."""

    n: int | None
    top1: float | None
    top5: float | None
    drop_pp: float | None
    drop_ci_pp: list[float] | None
    flips_percent: float | None
    sqnr_db: float | None


class SummaryRow(AccuracyCells):
    """Accuracy, latency and size of one engine: a row under `summary[]` of `report.json`; None where not measured."""

    engine: str
    backend: str | None
    precision: str | None
    batch: int | None
    threads: int | None
    median_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    ci_ms: list[float] | None
    ci_confidence: float | None
    times_faster: float | None
    times_faster_ci: list[float] | None
    disturbed: bool | None
    runs: int | None
    rounds: int | None
    own_share: float | None
    size_bytes: int | None
    not_run: str | None


UNKNOWN_ACCURACY: AccuracyCells = {
    "n": None,
    "top1": None,
    "top5": None,
    "drop_pp": None,
    "drop_ci_pp": None,
    "flips_percent": None,
    "sqnr_db": None,
}


@dataclass(frozen=True)
class ReportedAccuracy:
    """What a report says of an engine's accuracy: shares in percent, drops in percentage points, None if unknown."""

    engine: str
    n: int
    top1: float
    fp32_top1: float
    top5: float | None = None
    fp32_top5: float | None = None
    drop_pp: float | None = None
    drop_ci_pp: tuple[float, float] | None = None
    flips_percent: float | None = None
    sqnr_db: float | None = None
    verdict: str | None = None

    @classmethod
    def of(cls, row: AccuracyRow) -> "ReportedAccuracy":
        """That of a row of this run."""
        return cls(
            row.engine,
            row.n,
            row.top1,
            row.fp32_top1,
            row.top5,
            row.fp32_top5,
            row.drop_pp,
            row.drop_ci_pp,
            row.flips_percent,
            row.sqnr_db,
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ReportedAccuracy":
        """That of a row under `engines[]`, which `compare.records.read_results` has checked."""
        low, high = stored["drop_ci_pp"]
        return cls(
            stored["engine"],
            stored["n"],
            stored["top1"],
            stored["fp32_top1"],
            stored.get("top5"),
            stored.get("fp32_top5"),
            stored["drop_pp"],
            (low, high),
            stored.get("flips_percent"),
            stored.get("sqnr_db"),
            stored.get("verdict"),
        )

    def of_baseline(self) -> "ReportedAccuracy":
        """That of the reference on the same images."""
        return ReportedAccuracy(BASELINE, self.n, self.fp32_top1, self.fp32_top1, self.fp32_top5, self.fp32_top5)

    def cells(self) -> AccuracyCells:
        """Its part of a row under `summary[]` of `report.json`."""
        return {
            "n": self.n,
            "top1": self.top1,
            "top5": self.top5,
            "drop_pp": self.drop_pp,
            "drop_ci_pp": None if self.drop_ci_pp is None else list(self.drop_ci_pp),
            "flips_percent": self.flips_percent,
            "sqnr_db": self.sqnr_db,
        }
