"""Simulation of the search: how often it stores a variant, how many blocks that keeps, and whether its claims are true.

    python -m resnetrt.benchmarks.studies.search [--trials 200] [--seed 0]

A network is a table of the shares of images lost and gained if the first k blocks of its ranking are kept; an image
that is lost with k blocks kept is also lost with fewer. Both halves are drawn for each trial. The product's own code
decides: `search`, `widen`, `plan`, the gate's `decide` and `drop_of_passed`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.gate import Budget, Pairs, decide
from resnetrt.benchmarks.search.confirm import (
    ATTEMPTS,
    SURE,
    TrialToConfirm,
    chance_to_pass,
    corrected,
    drop_of_passed,
    halves,
    plan,
)
from resnetrt.benchmarks.search.strategy import Mix, Trial, best, search, widen
from resnetrt.benchmarks.studies.command import print_study

TOP1, BLOCKS, HALVES = 0.8, 16, (600, 2000, 5000)
_COLUMNS = ("network", "images a half", "rule", "stored %", "beyond the budget %", "blocks kept (all if not stored)",
            "evaluations", "attempts", "true drop pp", "seen less true pp", "said less true pp")  # fmt: skip
Rng = np.random.Generator
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DropCurve:
    """`lost` and `gained` `(BLOCKS + 1,)`: shares of all images, by the number of blocks kept."""

    name: str
    lost: Shares
    gained: Shares

    def drop_pp(self, kept: int) -> float:
        """The true drop."""
        return float(100 * (self.lost[kept] - self.gained[kept]))


def networks() -> list[DropCurve]:
    """Networks whose INT8 drop of 4 pp falls block by block, and one that stays just beyond a budget of 1 pp."""
    kept = np.arange(BLOCKS + 1)
    left = {
        "one guilty block": np.where(kept == 0, 1.0, 0.1),
        "each next block half as guilty": 0.5**kept,
        "each next block 15 % less guilty": 0.85**kept,
        "all blocks alike": 1 - kept / BLOCKS,
    }
    curves = [DropCurve(name, *_shares(4 * share, 0.02 * np.sqrt(share))) for name, share in left.items()]
    edge = np.full(BLOCKS + 1, 1.0 + 1e-9)
    return [*curves, DropCurve("drop of 1 pp, whatever is kept", *_shares(edge, np.full(BLOCKS + 1, 0.01)))]


def _shares(drop_pp: Shares, gained: Shares) -> tuple[Shares, Shares]:
    return drop_pp / 100 + gained, gained


@dataclass(frozen=True)
class SimulatedSearch:
    """What one search came to. `kept` is None if nothing was stored; drops of the stored variant are in pp."""

    kept: int | None
    evaluations: int
    attempts: int
    true_pp: float = np.nan
    seen_pp: float = np.nan
    said_pp: float = np.nan


class Half:
    """Answers on `images`. Each image has one threshold, so an image lost with k blocks kept is lost with fewer.

    Unless `nested`, every k has different images, so that a second attempt has independent luck.
    """

    def __init__(self, network: DropCurve, images: int, rng: Rng, nested: bool = True) -> None:
        self._network, self.images, self._rng, self._nested = network, images, rng, nested
        self._draw()

    def _draw(self) -> None:
        rng, images = self._rng, self.images
        right = rng.random(images) < TOP1
        self._right = int(right.sum())
        draws = rng.random(images)
        self._lost, self._gained = np.sort(draws[right] * TOP1), np.sort(draws[~right] * (1 - TOP1))

    def trial(self, mix: Mix, budget: Budget) -> Trial:
        """The counts with so many blocks kept, and their verdict."""
        if not self._nested:
            self._draw()
        kept = len(mix.kept)
        lost = int(np.searchsorted(self._lost, self._network.lost[kept]))
        gained = int(np.searchsorted(self._gained, self._network.gained[kept]))
        pairs = Pairs(self._right - lost, lost, gained, self.images)
        return Trial(mix, str(decide(pairs.both, lost, gained, pairs.n, budget)), pairs)


def run(
    network: DropCurve, images: int, budget: Budget, rng: Rng, planned: bool, searched: DropCurve | None = None
) -> SimulatedSearch:
    """One search and its confirmation: `planned` as in the product, else one attempt with the smallest k that passes.

    If `searched` is given, the half to search on is drawn from it, and attempts are independent.
    """
    searching = Half(searched or network, images, rng)
    held_out = Half(network, images, rng, nested=searched is None)
    names = [str(block) for block in range(BLOCKS)]
    trials: list[Trial] = []

    def evaluate(mix: Mix) -> Trial:
        return searching.trial(mix, budget)

    search(names, evaluate, trials)
    if planned:
        strict = corrected(budget, ATTEMPTS)
        widen(names, evaluate, trials, "fp32", lambda trial: chance_to_pass(trial.pairs, strict, images), SURE)
        attempts = plan(trials, BLOCKS, budget, images, ATTEMPTS)
    else:
        least = best(trials)
        attempts = [] if least is None else [TrialToConfirm(least, budget.confidence)]
    for number, attempt in enumerate(attempts, 1):
        kept, each = len(attempt.trial.mix.kept), replace(budget, confidence=attempt.confidence)
        again = held_out.trial(attempt.trial.mix, each)
        if again.passed:
            facts = network.drop_pp(kept), again.pairs.drop_pp, drop_of_passed(again.pairs, each)
            return SimulatedSearch(kept, len(trials), number, *facts)
    return SimulatedSearch(None, len(trials), len(attempts))


def study(trials: int, seed: int) -> Iterator[str]:
    """The tables, line by line."""
    budget = Budget(max_drop_pp=1.0)
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for number, network in enumerate(networks()):
        for images in HALVES:
            for planned in (False, True):
                rng = np.random.default_rng([seed, number, images])
                results = [run(network, images, budget, rng, planned) for _ in range(trials)]
                yield _line(network, images, planned, results)
    yield ""
    yield "| the images searched show | images a half | rule | attempts | a network beyond the budget is stored |"
    yield "|---|---|---|---|---|"
    yield from _error_lines(trials, seed, budget)
    yield ""
    yield "| classes | images in the confirming half: of 4 large, of 6 small classes |"
    yield "|---|---|"
    yield from _split_lines()


def _line(network: DropCurve, images: int, planned: bool, results: Sequence[SimulatedSearch]) -> str:
    stored = [item for item in results if item.kept is not None]
    kept = np.mean([BLOCKS if item.kept is None else item.kept for item in results])
    beyond = 100 * sum(item.true_pp > 1 for item in stored) / len(results)
    words = [network.name, images, "plan" if planned else "least k, once", f"{100 * len(stored) / len(results):.1f}"]
    words += [f"{beyond:.1f}", f"{kept:.2f}", f"{np.mean([item.evaluations for item in results]):.1f}"]
    words += [f"{np.mean([item.attempts for item in results]):.2f}"]
    if stored:
        true, seen, said = np.mean([(item.true_pp, item.seen_pp, item.said_pp) for item in stored], 0)
        words += [f"{true:.2f}", f"{seen - true:+.2f}", f"{said - true:+.2f}"]
    else:
        words += ["-"] * 3
    return "| " + " | ".join(map(str, words)) + " |"


def _error_lines(trials: int, seed: int, budget: Budget) -> Iterator[str]:
    """Held-out images have a true drop of 1 pp whatever is kept; those searched show a falling one: two attempts."""
    *others, edge = networks()
    for searched in (others[1], others[3]):
        for images in HALVES[1:]:
            for planned in (False, True):
                rng = np.random.default_rng([seed, images])
                results = [run(edge, images, budget, rng, planned, searched) for _ in range(5 * trials)]
                share = 100 * np.mean([item.kept is not None for item in results])
                tried = np.mean([item.attempts for item in results])
                rule = "plan" if planned else "least k, once"
                yield f"| {searched.name} | {images} | {rule} | {tried:.2f} | {share:.1f} % |"


def _split_lines() -> Iterator[str]:
    sizes = [600] * 4 + [60] * 6
    labels = np.repeat(np.arange(10), sizes)
    _, held_out = halves(labels)
    count = np.bincount(labels[held_out], minlength=10)
    yield f"| 4 x 600, 6 x 60 | {count[:4].tolist()}, {count[4:].tolist()} |"


if __name__ == "__main__":
    print_study(study, "search", __doc__, 200)
