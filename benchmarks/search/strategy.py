"""Which blocks to keep in higher precision: few evaluations, the guilty and cheap first.

Blocks are ranked by what quantizing each alone does to the logits, for what keeping it costs. The first k of that
ranking are kept, k galloping 0, 1, 2, 4, ... until the gate passes, then bisected down to the least that passes, and
from there on as far as a confirmation on other images is likely.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnetrt.benchmarks.accuracy.gate import PASS

_NOISE_SHARE = 1e-3  # blocks below this share of all noise come last, however cheap


@dataclass(frozen=True)
class Mix:
    """Full INT8 but for the blocks `kept`, which compute in `precision`."""

    kept: frozenset[str]
    precision: str = "fp32"


Evaluate = Callable[[Mix], Mapping[str, Any]]


@dataclass(frozen=True)
class Sensitivity:
    """`noise`: sum of squared logit errors over that of the logits with only this block quantized.

    `cost_ms`: measured time of keeping only this block in higher precision, over full INT8.
    """

    block: str
    noise: float
    cost_ms: float


@dataclass(frozen=True)
class Trial:
    """One evaluation on the search split, and the gate's row."""

    mix: Mix
    row: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the gate passed."""
        return bool(self.row["verdict"] == PASS)


def rank(sensitivities: Sequence[Sensitivity], least_ms: float) -> list[str]:
    """Block names, the most noise per millisecond first; a cost below `least_ms` is no more than its noise."""
    total = sum(item.noise for item in sensitivities) or 1.0

    def worth(item: Sensitivity) -> tuple[bool, float]:
        return item.noise >= _NOISE_SHARE * total, item.noise / max(item.cost_ms, least_ms)

    return [item.block for item in sorted(sensitivities, key=worth, reverse=True)]


def search(
    ranking: Sequence[str],
    evaluate: Evaluate,
    found: list[Trial],
    precision: str = "fp32",
    fails: int = -1,
    passes: int | None = None,
) -> None:
    """Append every trial to `found`, so that what was learnt survives an exception of `evaluate`.

    It is known already that the first `fails` blocks are too few and that the first `passes` are enough.
    """

    def works(count: int) -> bool:
        mix = Mix(frozenset(ranking[:count]), precision)
        found.append(Trial(mix, evaluate(mix)))
        return found[-1].passed

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
    found: list[Trial],
    precision: str,
    chance: Callable[[Trial], float],
    enough: float,
) -> None:
    """Append trials that keep 1, 2, 4, ... blocks more than the least that passed, while that raises `chance` to pass.

    Ends where it is `enough`.
    """
    least = best([trial for trial in found if trial.mix.precision == precision])
    if least is None:
        return
    known = {trial.mix: trial for trial in found}
    reached, more = chance(least), 1
    while reached < enough and len(least.mix.kept) + more <= len(ranking):
        mix = Mix(frozenset(ranking[: len(least.mix.kept) + more]), precision)
        if mix not in known:
            known[mix] = Trial(mix, evaluate(mix))
            found.append(known[mix])
        if not known[mix].passed or chance(known[mix]) <= reached:
            return
        reached, more = chance(known[mix]), 2 * more


def best(found: Sequence[Trial]) -> Trial | None:
    """The passing trial that keeps the fewest blocks; None if none passed."""
    return min((trial for trial in found if trial.passed), key=lambda trial: len(trial.mix.kept), default=None)
