"""How often the gate's verdicts are wrong, and its numbers of images suffice: enumerated or simulated, seeded.

    python -m resnetrt.benchmarks.studies.gate [--trials 20000] [--seed 0]

Engines are drawn as shares of images that are lost and gained; the product's own code decides from the counts. Each
figure is shown beside that of a simpler rule: the whole level at every look and for every engine, frames counted as
images, observed shares taken for the true ones, no correction for skewness.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.gate import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    WHOLE,
    Budget,
    Pairs,
    Spending,
    decide,
    images_to_decide,
    judge_pairs,
    scipy_stats,
)
from resnetrt.benchmarks.accuracy.looks import look_spending
from resnetrt.benchmarks.accuracy.plan import plan
from resnetrt.benchmarks.stats.noninferiority import CORRECTION, critical, drop_score, ratio_score
from resnetrt.benchmarks.studies.command import print_study

_SIGMAS = 5.5  # the probability beyond is 4e-8
Rng = np.random.Generator
Verdicts = npt.NDArray[np.str_]
Counts = npt.NDArray[np.int64]


class Worst:
    """The largest probabilities of PASS, of FAIL, and of FAIL without the correction for skewness, by confidence."""

    def __init__(self) -> None:
        self.rates = {confidence: [0.0, 0.0, 0.0] for confidence in (0.9, 0.95, 0.99, 0.999)}

    def add(
        self,
        chance: npt.NDArray[np.float64],
        both: Counts,
        lost: Counts,
        gained: Counts,
        n: int,
        points: float | None,
        ratio: float | None,
    ) -> None:
        """Include a setting: `chance` is the probability of each of the counts for an engine exactly at the budget."""
        if points is not None:
            score = -drop_score(lost, gained, n, points / 100, -CORRECTION)
        else:
            score = ratio_score(both, lost, gained, ratio or 1.0, CORRECTION)
        for confidence, rates in self.rates.items():
            verdicts = decide(both, lost, gained, n, Budget(points, ratio, confidence))
            for place, wrong in enumerate((verdicts == PASS, verdicts == FAIL, score <= -critical(confidence))):
                rates[place] = max(rates[place], float((chance * wrong).sum()))


def draw(rng: Rng, n: int, drop: float, flips: float, shape: tuple[int, ...], top1: float = 0.9) -> Counts:
    """Draw `both`, `lost`, `gained`, neither `(..., 4)` for `n` images, given the true drop and the flip rate."""
    lost, gained = (flips + drop) / 2, (flips - drop) / 2
    return rng.multinomial(n, [top1 - lost, lost, gained, 1 - top1 - gained], shape)


def judge(counts: Counts, n: int, budget: Budget, spending: Spending = WHOLE) -> Verdicts:
    """The verdicts `(...)` on counts `(..., 4)`."""
    return decide(counts[..., 0], counts[..., 1], counts[..., 2], n, budget, spending)


def looks(rng: Rng, budget: Budget, drop: float, flips: float, step: int, count: int, trials: int) -> list[Verdicts]:
    """The verdicts `(count, trials)` after every further `step` images, without and with alpha spending."""
    cells = draw(rng, step, drop, flips, (count, trials)).cumsum(0)
    spendings = [look_spending(number, 1)[0] for number in range(1, count + 1)]
    return [
        np.array([judge(cells[i], step * (i + 1), budget, spending) for i, spending in enumerate(levels)])
        for levels in ([WHOLE] * count, spendings)
    ]


def as_seen(pairs: Pairs, budget: Budget) -> int | None:
    """The simpler rule for further images: as many as decide if the observed shares stay the same."""
    factors = np.geomspace(1, 1000, 2000)
    decided = decide(
        factors * pairs.both, factors * pairs.lost, factors * pairs.gained, factors * pairs.n, budget
    ) != INCONCLUSIVE  # fmt: skip
    return round(float(factors[decided.argmax()] - 1) * pairs.n) if decided.any() else None


def suffices(
    rng: Rng, budget: Budget, n: int, drops: tuple[float, float], flips: float, trials: int
) -> list[tuple[float, float]]:
    """Of engines that `n` images leave undecided, the share that further images decide, and their median number.

    There are three numbers of images: that of the observed shares, `more_images`, and `more_images_if_equal`. For the
    last one, the share is that of equally good engines that PASS.
    """
    first, second = look_spending(1, 1)
    by_rule: list[list[tuple[bool, int]]] = [[], [], []]
    for drop in rng.uniform(*drops, 100 * trials):
        seen = draw(rng, n, drop, flips, (1,))[0]
        if judge(seen, n, budget, first) != INCONCLUSIVE:
            continue
        both, lost, gained, _ = seen.tolist()
        pairs = Pairs(both, lost, gained, n)
        rules = (
            (as_seen(pairs, budget), WHOLE, [PASS, FAIL]),
            (images_to_decide(pairs, budget, second), second, [PASS, FAIL]),
            (images_to_decide(pairs, budget, second, equal=True), second, [PASS]),
        )
        for results, (more, spending, wanted) in zip(by_rule, rules, strict=True):
            if more is not None:
                counts = seen + draw(rng, more, drop, flips, (1,))[0]
                results.append((bool(np.isin(judge(counts, n + more, budget, spending), wanted)), more))
        if len(by_rule[1]) >= trials:
            break
    return [
        (float(np.mean([hit for hit, _ in each])), float(np.median([more for _, more in each]))) for each in by_rule
    ]


def grouped(
    rng: Rng, budget: Budget, drop: float, flips: float, groups: int, size: int, together: float, trials: int
) -> tuple[float, float]:
    """How often an engine passes whose frames flip together, with frames counted and with groups counted.

    A group is affected with probability `flips / together`; then a share `together` of its frames is lost, or gained.
    """
    lost, gained = (flips + drop) / 2 / together, (flips - drop) / 2 / together
    touched = rng.multinomial(1, [lost, gained, 1 - lost - gained], (trials, groups))[..., :2]
    frames = rng.binomial(size, together * touched).sum(1).T.astype(np.float64)
    rates = []
    for n, (lose, gain) in ((groups * size, frames), (groups, frames / size)):
        rates.append(float((decide(n - lose - gain, lose, gain, n, budget) == PASS).mean()))
    return rates[0], rates[1]


def likely(n: int, lose: float, gain: float) -> tuple[npt.NDArray[np.float64], Counts, Counts]:
    """The likely numbers of lost `(L, 1)` and gained `(G,)` images among `n`, and their probabilities `(L, G)`."""
    lost, gained = (
        np.arange(max(0, int(n * share - wide)), min(n, int(n * share + wide)) + 1)
        for share in (lose, gain)
        for wide in [_SIGMAS * np.sqrt(n * share) + 2 * _SIGMAS]
    )
    lost = lost[:, None]
    stats = scipy_stats()
    return stats.binom.pmf(lost, n, lose) * stats.binom.pmf(gained, n - lost, gain / (1 - lose)), lost, gained


def worst_drop() -> Worst:
    """The largest probability of each wrong verdict for an engine exactly at a budget in points, over all settings."""
    worst = Worst()
    for n in (50, 100, 200, 500, 1000, 2000, 5000, 50_000):
        for limit in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
            for flips in sorted({limit * k for k in (1.0001, 1.03, 1.1, 1.3, 1.6, 2, 3, 8)} | {0.05, 0.5}):
                if limit <= flips <= 0.5:
                    chance, lost, gained = likely(n, (flips + limit) / 2, (flips - limit) / 2)
                    worst.add(chance, np.maximum(n - lost - gained, 0), lost, gained, n, 100 * limit, None)
    return worst


def worst_ratio() -> Worst:
    """The same for a relative budget, given the number of images that the reference or the engine gets right."""
    worst = Worst()
    for n in (100, 500, 2000, 10_000, 50_000):
        for ratio in (0.9, 0.98, 0.99, 0.995):
            for gain in (1 - ratio) * np.array([0.001, 0.03, 0.1, 0.3, 1.0, 3.0]):
                chance, lost, gained = likely(n, 1 - ratio + ratio * gain, float(gain))
                worst.add(chance, np.maximum(n - lost - gained, 0), lost, gained, n, None, ratio)
    return worst


def study(trials: int, seed: int) -> Iterator[str]:
    """The tables, line by line."""
    yield from _enumerated()
    for number, part in enumerate((_peeking, _more_images, _copies, _engines, _power)):
        yield ""
        yield from part(np.random.default_rng([seed, number]), trials)


def _enumerated() -> Iterator[str]:
    yield "| engine exactly at the budget, promised | budget | PASS | FAIL | FAIL, skewness left out |"
    yield "|---|---|---|---|---|"
    for kind, worst in (("points", worst_drop()), ("relative", worst_ratio())):
        for confidence, rates in worst.rates.items():
            cells = " | ".join(f"{100 * rate:.3f} %" for rate in rates)
            yield f"| {100 * (1 - confidence):.3g} % | {kind} | {cells} |"


def _peeking(rng: Rng, trials: int) -> Iterator[str]:
    yield "| looked at until it passes, or fails | flips | looks | PASS, whole level | FAIL | PASS, spent | FAIL |"
    yield "|---|---|---|---|---|---|---|"
    for flips in (0.01, 0.03, 0.1):
        for count in (2, 5, 10, 20):
            verdicts = looks(rng, Budget(0.5), 0.005, flips, 1000, count, trials)
            cells = [f"{100 * (each == side).any(0).mean():.2f} %" for each in verdicts for side in (PASS, FAIL)]
            yield f"| 1,000 images more each time | {flips:.0%} | {count} | {' | '.join(cells)} |"


def _more_images(rng: Rng, trials: int) -> Iterator[str]:
    yield "| true drops | undecided images, flips | decided, shares as seen | decided, as said | PASS, if equal |"
    yield "|---|---|---|---|---|"
    count = max(20, trials // 100)
    for name, drops in (("-1.5 to 2 pp", (-0.015, 0.02)), ("0 to 1 pp", (0.0, 0.01)), ("none", (0.0, 0.0))):
        for n, flips in ((1000, 0.02), (4000, 0.03)):
            shares = suffices(rng, Budget(0.5), n, drops, flips, count)
            cells = " | ".join(f"{100 * rate:.0f} % by {size:.0f}" for rate, size in shares)
            yield f"| {name} | {n}, {flips:.0%} | {cells} |"


def _copies(rng: Rng, trials: int) -> Iterator[str]:
    once, sixty = (judge_pairs(Pairs(50 * k, 0, 0, 50 * k), Budget(1.0)) for k in (1, 60))
    yield f"50 images sixty times over, counted 3000 times: {sixty.verdict}, drop below {sixty.bound_high:.2f} pp;"
    yield f"counted once: {once.verdict}, drop below {once.bound_high:.2f} pp."
    yield ""
    yield "| engine exactly at the budget of 2 pp | frames that flip together | PASS, frames | PASS, groups |"
    yield "|---|---|---|---|"
    for groups, size in ((100, 30), (400, 30), (400, 5)):
        for together in (1.0, 0.5, 0.2, 0.06):
            given = Budget(2.0), 0.02, 0.05, groups, size, together, max(100, trials // 5)
            frames, means = grouped(rng, *given)
            yield f"| {groups} groups of {size} | {together:.0%} | {100 * frames:.1f} % | {100 * means:.2f} % |"


def _engines(rng: Rng, trials: int) -> Iterator[str]:
    yield "| engines, all exactly at the budget | any PASS, whole level | any FAIL | any PASS, shared | any FAIL |"
    yield "|---|---|---|---|---|"
    for count in (2, 6, 10):
        counts = draw(rng, 5000, 0.005, 0.03, (trials, count))
        verdicts = [judge(counts, 5000, Budget(0.5), Spending(x, x)) for x in (1.0, 1 / count)]
        cells = [f"{100 * (each == side).any(1).mean():.2f} %" for each in verdicts for side in (PASS, FAIL)]
        yield f"| {count} | {' | '.join(cells)} |"


def _power(rng: Rng, trials: int) -> Iterator[str]:
    yield "| planned for, at the first look | images | PASS of one | of all, independent | of all, together |"
    yield "|---|---|---|---|---|"
    budget, spending = Budget(0.5), look_spending(1, 1)[0]
    for engines, n in ((6, 10_000), *((count, plan(budget, 0.03, 0.9, 0.0, count).n) for count in (1, 2, 6, 12))):
        counts = draw(rng, n, 0.0, 0.03, (trials, engines))
        passes = judge(counts, n, budget, spending) == PASS
        what = "not planned" if n == 10_000 else "90 %"
        cells = " | ".join(f"{100 * rate:.1f} %" for rate in (passes.mean(), passes.all(1).mean(), passes[:, 0].mean()))
        yield f"| {engines} engines, {what} | {n} | {cells} |"


if __name__ == "__main__":
    print_study(study, "gate", __doc__, 20_000)
