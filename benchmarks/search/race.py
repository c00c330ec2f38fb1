"""The precision in which kept blocks are fastest on a backend: each is built, run, checked and timed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict, cast

from resnetrt.benchmarks.measure.timing import Schedule, ratio
from resnetrt.benchmarks.search.strategy import Mix
from resnetrt.benchmarks.search.trial_engines import TrialEngines
from resnetrt.errors import ResnetrtError
from resnetrt.preprocess import FloatArray

_RACED = ("fp32", "bf16", "fp16")
_SHARE, _MOST = 0.9, 3  # the race keeps the noisiest blocks: this share of all noise, and at most this many


class RacerRow(TypedDict):
    """The fields of a `Racer` in a record."""

    precision: str
    kept: tuple[str, ...]
    runs_in: tuple[str, ...]
    median_ms: float | None
    faster_ci: tuple[float, float] | None
    out: str | None


@dataclass(frozen=True)
class Racer:
    """One precision with `kept` in it. `runs_in` is the backend's own report on these layers, empty without one.

    `faster_ci` is the interval of FP32's time divided by this one's, paired by rounds. `faster_ci` and `median_ms` are
    None if it can't run; `faster_ci` is also None with fewer than six rounds. `out` says why it can't be chosen, None
    if it can.
    """

    precision: str
    kept: tuple[str, ...]
    runs_in: tuple[str, ...] = ()
    median_ms: float | None = None
    faster_ci: tuple[float, float] | None = None
    out: str | None = None

    def to_json(self) -> RacerRow:
        """The row under `islands[]` of `search --json`."""
        return cast(RacerRow, asdict(self))


def race(
    engines: TrialEngines, noisiest: frozenset[str], image: FloatArray, schedule: Schedule, check: Callable[[], None]
) -> list[Racer]:
    """Time the mix that keeps `noisiest` in FP32, BF16 and FP16, side by side."""
    mixes = {precision: Mix(noisiest, precision) for precision in _RACED}
    refused: dict[str, str] = {}
    for precision, mix in mixes.items():
        check()
        try:
            with engines.open(mix) as opened:
                engines.infer(opened)(image)
        except ResnetrtError as error:
            if precision == "fp32":
                raise
            refused[precision] = str(error)
    able = {precision: mix for precision, mix in mixes.items() if precision not in refused}
    timings = engines.time(able, image, schedule, check)
    kept = tuple(sorted(noisiest))
    racers = [Racer(precision, kept, out=reason) for precision, reason in refused.items()]
    for precision, timing in timings.items():
        runs_in, faster = engines.runs_in(able[precision]), ratio(timings["fp32"], timing)
        interval = None if faster is None else (faster.low, faster.high)
        racers.append(Racer(precision, kept, runs_in, timing.median_ms, interval, out=_wrong(precision, runs_in)))
    return sorted(racers, key=lambda racer: _RACED.index(racer.precision))


def _wrong(precision: str, runs_in: Sequence[str]) -> str | None:
    if precision in runs_in:
        return None
    words = f"runs it in {', '.join(runs_in)}" if runs_in else "does not show what it runs it in"
    return f"the backend {words}"


def winner(racers: Sequence[Racer]) -> str:
    """The fastest precision that really runs; FP32 unless another is faster over its whole interval."""
    faster = [
        (racer.median_ms, racer.precision)
        for racer in racers
        if racer.out is None and racer.median_ms is not None and racer.faster_ci is not None and racer.faster_ci[0] > 1
    ]
    return min(faster)[1] if faster else "fp32"


def noisiest_blocks(noise: Mapping[str, float]) -> frozenset[str]:
    """The blocks that cause most of the noise, and so will probably be kept; never all blocks."""
    ranked = sorted(noise, key=lambda name: noise[name], reverse=True)
    total = sum(noise.values())
    most = min(_MOST, len(ranked) - 1)
    count = next((n for n in range(1, most) if sum(noise[name] for name in ranked[:n]) >= _SHARE * total), most)
    return frozenset(ranked[:count])
