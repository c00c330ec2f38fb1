"""The one timing function: blocks of consecutive calls per candidate, in an order that changes between rounds.

Alternating candidates call by call is wrong: the spinning threads of one candidate slow the next. Running the
candidates one after the other is wrong too: drift then looks like a difference. So each round gives every candidate one
block, and ratios are taken within rounds.
"""

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from resnetrt.errors import UsageError

Clock = Callable[[], int]
Call = Callable[[], object]
Interval = tuple[float, float]
OnDevice = Callable[[int], Sequence[float]]  # maps a number of runs to their milliseconds by the device's clock
CONFIDENCE = 0.95
ENOUGH_ROUNDS = 6  # with fewer rounds no interval of a median over rounds reaches CONFIDENCE
_MOST_ALIKE = 0.9  # cap of the neighbours' correlation; a larger one can't be estimated from so few rounds


class TimingRow(TypedDict):
    """The fields of a `Timing` in a row of results."""

    n: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    spread_ms: float
    ci_confidence: float
    ci_ms: list[float]
    round_medians_ms: list[float]
    device_median_ms: float | None
    device_p90_ms: float | None
    device_p99_ms: float | None


class EngineTimingRow(TimingRow):
    """The times of one engine at one batch size."""

    network: str
    engine: str
    batch: int


@dataclass(frozen=True)
class Schedule:
    """How long to measure. Times in seconds; `budget_s` covers warm-up and rounds of all candidates together.

    A block is `block_calls` calls, or as many as fill `min_block_s`, or fewer if the budget would not last for
    `rounds`. Each block starts with untimed calls for `settle_s` (at least one), because caches and thread pools change
    hands. While a candidate has not settled (half its interval is more than `steady` of its median), all candidates get
    another round, up to `max_rounds` and the budget. A spent budget never ends a run before `least_rounds`.
    """

    rounds: int = 15
    least_rounds: int = 1
    max_rounds: int | None = None
    steady: float = 0.02
    block_calls: int | None = None
    min_block_s: float = 0.1
    settle_s: float = 0.05
    warm_up_s: float = 0.3
    budget_s: float | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"timing rounds: expected a positive number, found {self.rounds}")
        if self.block_calls is not None and self.block_calls < 1:
            raise UsageError(f"timing calls in a block: expected a positive number, found {self.block_calls}")
        if min(self.min_block_s, self.settle_s, self.warm_up_s) < 0:
            raise UsageError(f"timing: expected times in seconds that are not negative, found {self}")
        if self.budget_s is not None and self.budget_s <= 0:
            raise UsageError(f"timing budget: expected a positive number of seconds, found {self.budget_s}")

    def most_s(self, call_s: float) -> float:
        """The most seconds for `rounds` of one candidate if a call takes `call_s`; each phase may end a call late."""
        block_s = self.min_block_s if self.block_calls is None else self.block_calls * call_s
        return self.warm_up_s + 3 * call_s + self.rounds * (self.settle_s + block_s + 2 * call_s)


DEFAULT_SCHEDULE = Schedule()


@dataclass(frozen=True)
class Timing:
    """`n` timed calls of one candidate, in milliseconds; warm-up and settling calls are not among them.

    `spread_ms` is the interquartile range. `ci_ms` is the interval of the median over rounds, which allows for drift
    between rounds; `ci_confidence` is below 0.95 only if there are too few rounds, or if they are too strongly
    correlated. `run` identifies the run. `device` has median, p90 and p99 by the device's clock; None if the host
    computes.
    """

    n: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    spread_ms: float
    ci_ms: Interval
    ci_confidence: float
    round_medians_ms: tuple[float, ...]
    run: int
    device: tuple[float, float, float] | None = None

    def to_json(self) -> TimingRow:
        """The numbers under their field names."""
        median, p90, p99 = self.device or (None, None, None)
        return {
            "n": self.n,
            "median_ms": self.median_ms,
            "p90_ms": self.p90_ms,
            "p99_ms": self.p99_ms,
            "spread_ms": self.spread_ms,
            "ci_confidence": self.ci_confidence,
            "ci_ms": list(self.ci_ms),
            "round_medians_ms": list(self.round_medians_ms),
            "device_median_ms": median,
            "device_p90_ms": p90,
            "device_p99_ms": p99,
        }


@dataclass(frozen=True)
class Ratio:
    """How many times longer one candidate takes than another, with its interval."""

    value: float
    low: float
    high: float


def measure(
    candidates: Mapping[str, Call],
    schedule: Schedule = DEFAULT_SCHEDULE,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    clock: Clock = time.perf_counter_ns,
    on_device: Mapping[str, OnDevice] | None = None,
) -> dict[str, Timing]:
    """Time `candidates` side by side. Each call must return only when its work is done (synchronised).

    A candidate in `on_device` repeats each of its blocks, timed by its device (CUDA events).
    `progress` wraps the sequence of round numbers; `clock` counts nanoseconds. Stops early when the budget is spent.
    Raises `UsageError` if there is nothing to measure; exceptions of a candidate pass through.
    """
    if not candidates:
        raise UsageError("timing: expected at least one candidate, found none")
    run = clock()
    deadline = math.inf if schedule.budget_s is None else run + schedule.budget_s * 1e9
    call_ns = {name: _warm_up(call, schedule.warm_up_s, clock) for name, call in candidates.items()}
    calls = {name: _block_calls(call_ns[name], schedule, len(candidates), deadline - clock()) for name in candidates}
    blocks: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in candidates}
    on_device = on_device or {}
    device_ms: dict[str, list[float]] = {name: [] for name in on_device}

    def run_round(index: int) -> None:
        for name in order(list(candidates), index):
            blocks[name].append(_block(candidates[name], calls[name], schedule.settle_s, clock))
            if name in on_device:
                device_ms[name] += on_device[name](calls[name])

    for index in progress(range(schedule.rounds)):
        run_round(index)
        if clock() >= deadline and index + 1 >= schedule.least_rounds:
            break
    for index in range(schedule.rounds, schedule.max_rounds or 0):
        if clock() >= deadline or not any(_moves(block, schedule.steady) for block in blocks.values()):
            break
        run_round(index)
    timings = {name: summarise(block, run) for name, block in blocks.items()}
    return timings | {name: replace(timings[name], device=_device_summary(ms)) for name, ms in device_ms.items()}


def _device_summary(ms: Sequence[float]) -> tuple[float, float, float]:
    median, p90, p99 = map(float, np.percentile(ms, [50, 90, 99]))
    return median, p90, p99


def order(names: Sequence[str], index: int) -> list[str]:
    """The order of round `index`: rotated each round, reversed after each full turn, so that neighbours change too."""
    shift, turn = index % len(names), index // len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated[::-1] if turn % 2 else rotated


def summarise(blocks: Sequence[npt.ArrayLike], run: int = 0) -> Timing:
    """Statistics of durations in nanoseconds, one array per round."""
    rounds = [np.asarray(block, np.float64) / 1e6 for block in blocks]
    pooled = np.concatenate(rounds)
    medians = [float(np.median(block)) for block in rounds]
    quartile, median, third, p90, p99 = map(float, np.percentile(pooled, [25, 50, 75, 90, 99]))
    low, high, confidence = median_interval(medians)
    interval = (min(low, median), max(high, median))
    return Timing(len(pooled), median, p90, p99, third - quartile, interval, confidence, tuple(medians), run)


def ratio(slow: Timing, fast: Timing) -> Ratio | None:
    """`slow / fast`, paired by rounds; see `paired_ratio`.

    Raises `ValueError` for timings of different runs: their conditions differ, so the ratio means nothing.
    """
    if slow.run != fast.run or len(slow.round_medians_ms) != len(fast.round_medians_ms):
        raise ValueError("a paired ratio needs two timings of the same run")
    return paired_ratio(slow.round_medians_ms, fast.round_medians_ms)


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio | None:
    """The median of the rounds' ratios with its interval, from medians of the same rounds.

    None with fewer than `ENOUGH_ROUNDS`: no 95 % interval says how reliable such a factor is.
    """
    if len(slow) < ENOUGH_ROUNDS:
        return None
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    low, high, _ = median_interval(ratios)
    return Ratio(float(np.median(ratios)), low, high)


def no_ratio(rounds: int, remedy: str) -> str:
    """Why there is no factor, and how to get one."""
    return f"n = {rounds}: no ratio from fewer than six rounds; {remedy}"


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Low, high and attained confidence of the median's order-statistic interval; `values` in the order of time.

    The interval assumes nothing about the distribution (David and Nagaraja, Order Statistics, 3rd ed., section 7.1):
    the median lies outside `[x(k), x(n+1-k)]` with probability `2 P(Binomial(n, 1/2) < k)`. Correlated neighbours carry
    less information, so the ranks are then taken further out (`_stretch`). If that exceeds the whole range, as always
    with fewer than six values, the range is returned with its confidence, which is below 0.95.
    """
    ranked = sorted(values)
    n = len(ranked)
    k, outside = 1, 2 * 0.5**n
    while k < n - k:
        wider = outside + 2 * math.comb(n, k) * 0.5**n
        if wider > 1 - confidence:
            break
        k, outside = k + 1, wider
    attained, stretch = max(0.0, 1 - outside), _stretch(values)
    wide = math.floor((n + 1) / 2 - stretch * ((n + 1) / 2 - k))
    if wide < 1:  # by the normal approximation of the binomial, which overstates the range of few values
        reach = (n - 1) / (math.sqrt(n) * stretch)
        wide, attained = 1, min(attained, 2 * NormalDist().cdf(reach) - 1)
    return ranked[wide - 1], ranked[n - wide], attained


def _stretch(values: Sequence[float]) -> float:
    """How many times wider the median's interval must be because consecutive values are correlated; at least one.

    `sqrt((1 + r) / (1 - r))`, as for the mean of a first-order autoregression (Bartlett 1946, JRSS Supplement 8,
    27-41), with the correlation `r` of neighbours' ranks, which is `(1 + 3 r) / n` too small on average (Marriott and
    Pope 1954, Biometrika 41, 390-402). By simulation (`studies.runs`) intervals then cover the median in 93 % or more,
    at correlations up to 0.6 with 11 rounds and up to 0.8 with 33; without it in 87 and 59 %.
    """
    n = len(values)
    below = np.searchsorted(np.sort(values), values, "left") + np.searchsorted(np.sort(values), values, "right")
    ranks = below - below.mean()  # equal values get equal ranks
    squares = float(ranks @ ranks)
    if n < ENOUGH_ROUNDS or squares == 0:
        return 1.0
    raw = float(ranks[1:] @ ranks[:-1]) / squares
    r = min(max(raw + (1 + 3 * raw) / n, 0.0), _MOST_ALIKE)
    return math.sqrt((1 + r) / (1 - r))


def _moves(blocks: Sequence[npt.NDArray[np.int64]], steady: float) -> bool:
    """Whether the interval of the median over rounds is wider than `steady` to each side."""
    medians = [float(np.median(block)) for block in blocks]
    low, high, _ = median_interval(medians)
    return (high - low) / 2 > steady * float(np.median(medians))


def _warm_up(call: Call, seconds: float, clock: Clock) -> float:
    """Call at least three times and for `seconds`; the median duration in nanoseconds."""
    durations: list[int] = []
    end = clock() + seconds * 1e9
    while len(durations) < 3 or clock() < end:
        start = clock()
        call()
        durations.append(clock() - start)
    return max(1.0, float(np.median(durations)))


def _block_calls(call_ns: float, schedule: Schedule, candidates: int, left_ns: float) -> int:
    wanted = schedule.block_calls or math.ceil(schedule.min_block_s * 1e9 / call_ns)
    if math.isinf(left_ns):
        return max(1, wanted)
    share_ns = left_ns / (schedule.rounds * candidates) - max(schedule.settle_s * 1e9, call_ns)
    return max(1, min(wanted, int(share_ns / call_ns)))


def _block(call: Call, calls: int, settle_s: float, clock: Clock) -> npt.NDArray[np.int64]:
    """Durations in nanoseconds `(calls,)` of consecutive calls after untimed ones."""
    durations = np.empty(calls, np.int64)
    with _no_garbage_collection():
        end = clock() + settle_s * 1e9
        call()
        while clock() < end:
            call()
        for i in range(calls):
            start = clock()
            call()
            durations[i] = max(1, clock() - start)
    return durations


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
