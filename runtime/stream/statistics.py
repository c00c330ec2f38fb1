"""What a batcher has done, counted the way Triton's statistics are."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resnetrt.runtime.stream.histogram import LatencyHistogram

# what can become of a request, other than success
OUTCOMES = ("failed", "rejected", "expired", "cancelled", "dropped", "invalid")


class Execution(NamedTuple):
    """One batch that ran: its images, when each of its requests was queued, and how long each step took."""

    images: int
    queued_ns: tuple[int, ...]
    started_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int


_STEPS = ("compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class _BatchSize:
    """Sums over the batches of one size; the steps once for each batch, and once for each of its requests."""

    batches: int = 0
    requests: int = 0
    queue_ns: int = 0
    batch_ns: list[int] = field(default_factory=lambda: [0] * len(_STEPS))
    request_ns: list[int] = field(default_factory=lambda: [0] * len(_STEPS))

    def to_json(self) -> dict[str, dict[str, int]]:
        """The steps of its batches."""
        return {name: _duration(self.batches, ns) for name, ns in zip(_STEPS, self.batch_ns, strict=True)}


class Statistics:
    """Counters of one model, kept when it is loaded again. May be used from several threads."""

    def __init__(self) -> None:
        self.latency = LatencyHistogram()
        self._lock = threading.Lock()
        self._sizes: dict[int, _BatchSize] = {}
        self._outcomes: Counter[str] = Counter()
        self._failed_ns = self._last_ms = 0

    def executed(self, run: Execution) -> None:
        """Count a batch whose requests all succeeded. As in Triton, each request counts the whole batch's steps.

        Every answer waits for this, with caches that the engine has emptied: sums only, the rest in `to_json`.
        """
        requests = len(run.queued_ns)
        steps = (run.input_ns, run.infer_ns, run.output_ns)
        with self._lock:
            size = self._sizes.get(run.images)
            if size is None:
                size = self._sizes[run.images] = _BatchSize()
            size.batches += 1
            size.requests += requests
            size.queue_ns += requests * run.started_ns - sum(run.queued_ns)
            for index, ns in enumerate(steps):
                size.batch_ns[index] += ns
                size.request_ns[index] += requests * ns
            self._last_ms = time.time_ns() // 1_000_000
        done_ns = run.started_ns + sum(steps)
        for queued in run.queued_ns:
            self.latency.record(done_ns - queued)

    def ended(self, outcome: str, waited_ns: int = 0) -> None:
        """Count a request that got no outputs; `outcome` is one of `OUTCOMES`."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._failed_ns += waited_ns

    def outcomes(self) -> dict[str, int]:
        """Requests without outputs, by outcome."""
        with self._lock:
            return {name: self._outcomes[name] for name in OUTCOMES}

    def to_json(self) -> dict[str, Any]:
        """The counters under the names of the V2 protocol's statistics extension."""
        with self._lock:
            sizes = sorted(self._sizes.items())
            requests = sum(size.requests for _, size in sizes)
            spent_ns = {"queue": sum(size.queue_ns for _, size in sizes)}
            for index, name in enumerate(_STEPS):
                spent_ns[name] = sum(size.request_ns[index] for _, size in sizes)
            return {
                "last_inference": self._last_ms,
                "inference_count": sum(images * size.batches for images, size in sizes),
                "execution_count": sum(size.batches for _, size in sizes),
                "inference_stats": {
                    "success": _duration(requests, sum(spent_ns.values())),
                    "fail": _duration(self._outcomes.total(), self._failed_ns),
                    **{name: _duration(requests, ns) for name, ns in spent_ns.items()},
                },
                "batch_stats": [{"batch_size": images, **size.to_json()} for images, size in sizes],
            }


def _duration(count: int, ns: int) -> dict[str, int]:
    """Triton's record of how often something happened and how long it took in all."""
    return {"count": count, "ns": ns}
