"""Measuring: latency, accuracy, and the reports that show both."""

from typing import TYPE_CHECKING

from resnetrt.public import lazily

if TYPE_CHECKING:
    from resnetrt.benchmarks.accuracy.gate import Budget
    from resnetrt.benchmarks.accuracy.request import GateRequest
    from resnetrt.benchmarks.evaluate.run import GateRun, run_gate
    from resnetrt.benchmarks.verify.prepare import prepare_export

__all__ = [
    "Budget",
    "GateRequest",
    "GateRun",
    "prepare_export",
    "run_gate",
]
__getattr__ = lazily(
    __name__,
    {
        "Budget": "accuracy.gate",
        "GateRequest": "accuracy.request",
        "GateRun": "evaluate.run",
        "prepare_export": "verify.prepare",
        "run_gate": "evaluate.run",
    },
)
