"""What a batcher has done, counted the way Triton's statistics are."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from resnetrt.runtime.stream.histogram import LatencyHistogram

# what can become of a request, other than success
OUTCOMES = ("failed", "rejected", "expired", "cancelled", "dropped", "invalid")


@dataclass
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Count `count` more that took `ns` together."""
        self.count += count
        self.ns += ns

    def to_json(self) -> dict[str, int]:
        """Triton's record of a duration."""
        return {"count": self.count, "ns": self.ns}


@dataclass(frozen=True)
class Execution:
    """One batch that ran: its images, when each of its requests was queued, and how long each step took."""

    images: int
    queued_ns: tuple[int, ...]
    started_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int


_STEPS = ("compute_input", "compute_infer", "compute_output")


@dataclass
class _BatchSize:
    steps: dict[str, Duration] = field(default_factory=lambda: {name: Duration() for name in _STEPS})


class Statistics:
    """Counters of one model, kept when it is loaded again. May be used from several threads."""

    def __init__(self) -> None:
        self.latency = LatencyHistogram()
        self._lock = threading.Lock()
        self._durations = {name: Duration() for name in ("success", "fail", "queue", *_STEPS)}
        self._sizes: dict[int, _BatchSize] = {}
        self._outcomes: Counter[str] = Counter()
        self._inferences = self._executions = self._last_ms = 0

    def executed(self, run: Execution) -> None:
        """Count a batch whose requests all succeeded. As in Triton, each request counts the whole batch's steps."""
        requests = len(run.queued_ns)
        steps = dict(zip(_STEPS, (run.input_ns, run.infer_ns, run.output_ns), strict=True))
        done_ns = run.started_ns + sum(steps.values())
        with self._lock:
            self._durations["success"].add(requests, sum(done_ns - queued for queued in run.queued_ns))
            self._durations["queue"].add(requests, sum(run.started_ns - queued for queued in run.queued_ns))
            size = self._sizes.setdefault(run.images, _BatchSize())
            for name, ns in steps.items():
                self._durations[name].add(requests, requests * ns)
                size.steps[name].add(1, ns)
            self._inferences += run.images
            self._executions += 1
            self._last_ms = time.time_ns() // 1_000_000
        for queued in run.queued_ns:
            self.latency.record(done_ns - queued)

    def ended(self, outcome: str, waited_ns: int = 0) -> None:
        """Count a request that got no outputs; `outcome` is one of `OUTCOMES`."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._durations["fail"].add(1, waited_ns)

    def outcomes(self) -> dict[str, int]:
        """Requests without outputs, by outcome."""
        with self._lock:
            return {name: self._outcomes[name] for name in OUTCOMES}

    def to_json(self) -> dict[str, Any]:
        """The counters under the names of the V2 protocol's statistics extension."""
        with self._lock:
            return {
                "last_inference": self._last_ms,
                "inference_count": self._inferences,
                "execution_count": self._executions,
                "inference_stats": {name: value.to_json() for name, value in self._durations.items()},
                "batch_stats": [
                    {"batch_size": size, **{name: value.to_json() for name, value in found.steps.items()}}
                    for size, found in sorted(self._sizes.items())
                ],
            }
