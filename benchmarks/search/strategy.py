"""Which blocks to keep in higher precision: few evaluations, with the noisiest and cheapest blocks first.

Blocks are ranked by the error in the logits from quantizing each alone, divided by the cost of keeping it. The first k
blocks of this ranking are kept: k grows as 0, 1, 2, 4, ... until the gate passes (galloping), then bisection finds the
smallest k that passes, and k grows again until a confirmation on other images is likely.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resnetrt.benchmarks.accuracy.gate import PASS, Pairs

_NOISE_SHARE = 1e-3  # blocks with less than this share of all noise come last, however cheap


@dataclass(frozen=True)
class Mix:
    """INT8 except for the blocks `kept`, which compute in `precision`."""

    kept: frozenset[str]
    precision: str = "fp32"


@dataclass(frozen=True)
class Sensitivity:
    """`noise`: squared error of the logits divided by the squared logits, with only this block quantized.

    `cost_ms`: measured extra time, compared with full INT8, of keeping only this block in higher precision.
    """

    block: str
    noise: float
    cost_ms: float


@dataclass(frozen=True)
class Trial:
    """One evaluation on the search split: the gate's verdict, and the pairs that it was given on."""

    mix: Mix
    verdict: str | None
    pairs: Pairs

    @property
    def passed(self) -> bool:
        """Whether the gate passed."""
        return self.verdict == PASS


Evaluate = Callable[[Mix], Trial]


def rank(sensitivities: Sequence[Sensitivity], least_ms: float) -> list[str]:
    """Block names, most noise per millisecond first; costs below `least_ms` are only measurement noise."""
    total = sum(item.noise for item in sensitivities) or 1.0

    def worth(item: Sensitivity) -> tuple[bool, float]:
        return item.noise >= _NOISE_SHARE * total, item.noise / max(item.cost_ms, least_ms)

    return [item.block for item in sorted(sensitivities, key=worth, reverse=True)]


def search(
    ranking: Sequence[str],
    evaluate: Evaluate,
    trials: list[Trial],
    precision: str = "fp32",
    fails: int = -1,
    passes: int | None = None,
) -> None:
    """Find the smallest k; every trial is appended to `trials`, so that it survives an exception of `evaluate`.

    The first `fails` blocks are known to be too few, the first `passes` are known to be enough.
    """

    def works(count: int) -> bool:
        mix = Mix(frozenset(ranking[:count]), precision)
        trials.append(evaluate(mix))
        return trials[-1].passed

    count = fails + 1
    while passes is None or count < passes:
        if works(count):
            passes = count
            break
        if count >= len(ranking):
            return
        fails, count = count, min(max(1, 2 * count), len(ranking))
    while passes - fails > 1:
        middle = (fails + passes) // 2
        fails, passes = (fails, middle) if works(middle) else (middle, passes)


def widen(
    ranking: Sequence[str],
    evaluate: Evaluate,
    trials: list[Trial],
    precision: str,
    chance: Callable[[Trial], float],
    enough: float,
) -> None:
    """Append trials with 1, 2, 4, ... more blocks than the least that passed, while that raises the `chance` to pass.

    Stops when the chance is `enough`.
    """
    least = best([trial for trial in trials if trial.mix.precision == precision])
    if least is None:
        return
    known = {trial.mix: trial for trial in trials}
    reached, more = chance(least), 1
    while reached < enough and len(least.mix.kept) + more <= len(ranking):
        mix = Mix(frozenset(ranking[: len(least.mix.kept) + more]), precision)
        if mix not in known:
            known[mix] = evaluate(mix)
            trials.append(known[mix])
        if not known[mix].passed or chance(known[mix]) <= reached:
            return
        reached, more = chance(known[mix]), 2 * more


def best(trials: Sequence[Trial]) -> Trial | None:
    """The passing trial that keeps the fewest blocks; None if none passed."""
    return min((trial for trial in trials if trial.passed), key=lambda trial: len(trial.mix.kept), default=None)
