"""Latencies counted in buckets of equal ratio: fixed memory, percentiles within 5 %."""

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

RATIO = 1.05
_LOG = math.log(RATIO)
_LEAST_NS = 1_000
_BUCKETS = 400  # 1.05 ** 400 microseconds is 5 minutes


class LatencyHistogram:
    """Counts of durations from 1 us to 5 minutes; shorter and longer ones fall in the first and last bucket.

    May be recorded to from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * _BUCKETS  # no array: counting one is on the way of every answer
        self._sum_ns = 0
        self._max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Count one duration."""
        index = int(math.log(duration_ns / _LEAST_NS) / _LOG) + 1 if duration_ns > _LEAST_NS else 0
        with self._lock:
            self._counts[min(index, _BUCKETS - 1)] += 1
            self._sum_ns += duration_ns
            self._max_ns = max(self._max_ns, duration_ns)

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return sum(self._counts)

    @property
    def sum_ms(self) -> float:
        """All durations together, exact."""
        return self._sum_ns / 1e6

    @property
    def max_ms(self) -> float:
        """The longest duration, exact."""
        return self._max_ns / 1e6

    def percentile(self, percent: float) -> float | None:
        """The duration in ms that `percent` of all do not exceed, at most 5 % too long; None while there is none."""
        counts = self._copy()
        if not counts.sum():
            return None
        rank = max(1, math.ceil(counts.sum() * percent / 100))
        index = int(np.searchsorted(np.cumsum(counts), rank))
        return min(_upper_ms(index), self.max_ms)

    def below(self, limits_ms: tuple[float, ...]) -> list[int]:
        """For each limit the number of durations whose whole bucket lies at or below it, as Prometheus counts."""
        counts = self._copy()
        edges = np.array([_upper_ms(index) for index in range(_BUCKETS)])
        return [int(counts[edges <= limit].sum()) for limit in limits_ms]

    def to_json(self) -> dict[str, Any]:
        """Count, mean, maximum and percentiles in ms."""
        count = self.count
        return {
            "n": count,
            "mean_ms": self.sum_ms / count if count else None,
            "median_ms": self.percentile(50),
            "p90_ms": self.percentile(90),
            "p99_ms": self.percentile(99),
            "max_ms": self.max_ms if count else None,
        }

    def bars(self, width: int = 40) -> list[str]:
        """The histogram as text, a line for each factor of 1.25 that was met."""
        counts, joined = self._copy(), 5
        groups = counts[: _BUCKETS - _BUCKETS % joined].reshape(-1, joined).sum(1)
        met = np.flatnonzero(groups)
        if not len(met):
            return []
        return [
            f"<= {_upper_ms(int(group) * joined + joined - 1):9.3f} ms {groups[group]:7d} "
            + "#" * math.ceil(width * groups[group] / groups.max())
            for group in range(met[0], met[-1] + 1)
        ]

    def _copy(self) -> npt.NDArray[np.int64]:
        with self._lock:
            return np.array(self._counts, np.int64)


def _upper_ms(index: int) -> float:
    return float(_LEAST_NS * RATIO**index / 1e6)
