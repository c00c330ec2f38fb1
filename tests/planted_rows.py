"""Rows of the gate with the numbers that a test wants."""

from dataclasses import replace
from typing import Any

from resnetrt.benchmarks.accuracy.comparison import AccuracyRow
from resnetrt.benchmarks.accuracy.gate import Pairs, Verdict
from resnetrt.benchmarks.accuracy.gate_rows import GateRow, JudgedPairs

_ACCURACY = AccuracyRow(
    engine="",
    n=2000,
    groups=None,
    fp32_top1=92.9,
    top1=92.7,
    fp32_top5=99.8,
    top5=99.7,
    drop_pp=0.2,
    drop_ci_pp=(-0.1, 0.55),
    flips_percent=0.85,
    sqnr_db=30.06,
    calibration_overlap=0,
)


def gate_row(engine: str, verdict: str | None = None, **accuracy: Any) -> GateRow:
    """The row of an engine; with a verdict, one on pairs that nobody counted."""
    judged = None if verdict is None else JudgedPairs(Pairs(0, 0, 0, _ACCURACY.n), Verdict(verdict, -0.1, 0.5))
    return GateRow(replace(_ACCURACY, engine=engine, **accuracy), copies=0, fp32_ece=0.01, ece=0.02, judged=judged)


def with_verdict(row: GateRow, verdict: str) -> GateRow:
    """The row with another verdict."""
    assert row.judged is not None
    return replace(row, judged=replace(row.judged, verdict=replace(row.judged.verdict, verdict=verdict)))
