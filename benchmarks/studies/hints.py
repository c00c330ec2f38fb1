"""How often the gate blames a sound network's data, and how often it finds a planted fault: by simulation, seeded.

    python -m resnetrt.benchmarks.studies.hints [--trials 20] [--seed 0]

Networks are drawn as tables of answers for each class, images as answers from these tables. The product's own code
decides from answers and labels: `find_renaming`, `most_improved`, `is_recipe`, `doubt_of`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.gate import doubt_of, gain_p
from resnetrt.benchmarks.evaluate.hints import IMAGES, LEVEL, MISTAKES, MOST_IMAGES, is_recipe, most_improved
from resnetrt.benchmarks.evaluate.label_map import find_renaming
from resnetrt.benchmarks.studies.command import print_study
from resnetrt.calibration.images.data import IntArray

TOP1, CLASSES, COUNTS = (0.2, 0.4, 0.7, 0.95), (2, 10, 100, 1000), (100, 200, 500, 1000, 5000)
NETWORKS = ("even", "uneven", "siblings", "few classes matter")
FAULTS = ("reversed", "one too high", "permuted", "two swapped", "recipe")
_FAMILY = 5  # classes that are confused with each other
Rng = np.random.Generator


@dataclass(frozen=True)
class Setting:
    """Networks with top-1 `top1` over `classes`, judged on `count` images."""

    top1: float
    classes: int
    count: int

    @property
    def sensible(self) -> bool:
        """Whether such a network knows anything: at least 1.5 times as good as guessing among equal classes."""
        return self.top1 >= 1.5 / self.classes or (self.classes == 2 and self.top1 >= 0.7)


@dataclass(frozen=True, eq=False)
class RandomClassifier:
    """`recall` `(K,)`; a wrong answer is one of `siblings` `(K, m)`, with the cumulative probabilities `(K, m)`."""

    shares: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    siblings: IntArray
    chances: npt.NDArray[np.float64]

    def images(self, count: int, rng: Rng) -> tuple[IntArray, IntArray]:
        """Labels and answers, each `(count,)`."""
        labels = rng.choice(len(self.shares), count, p=self.shares)
        return labels, self.answers(labels, rng)

    def answers(self, labels: IntArray, rng: Rng) -> IntArray:
        """The network's answers to images of these classes."""
        place = (self.chances[labels] < rng.random(len(labels))[:, None]).sum(1)
        wrong = self.siblings[labels, np.minimum(place, self.siblings.shape[1] - 1)]
        return np.where(rng.random(len(labels)) < self.recall[labels], labels, wrong)


def draw_network(kind: str, top1: float, classes: int, rng: Rng) -> RandomClassifier:
    """`even`: equal recalls, and wrong answers spread over all classes. `uneven`: recalls from a beta distribution.

    `siblings`: as `uneven`, and wrong answers go to four classes, mostly to one or two. `few classes matter`: as
    `siblings`, and the classes' shares of the images fall as 1 / rank.
    """
    recall = np.full(classes, top1) if kind == "even" else rng.beta(6 * top1, 6 * (1 - top1), classes)
    recall = np.clip(recall * top1 / recall.mean(), 0, 1)
    shares = 1 / np.arange(1, classes + 1) if kind == "few classes matter" else np.ones(classes)
    rng.shuffle(shares)
    near = min(_FAMILY if kind in ("siblings", "few classes matter") else 60, classes) - 1
    start = np.arange(classes)[:, None]
    if kind in ("siblings", "few classes matter"):
        siblings = (start + np.arange(1, near + 1)) % classes
        chances = rng.dirichlet(np.ones(near), classes)
    else:
        siblings = (start + rng.integers(1, classes, (classes, near))) % classes
        chances = np.full((classes, near), 1 / near)
    return RandomClassifier(shares / shares.sum(), recall, siblings, np.cumsum(chances, 1))


def is_blamed(network: RandomClassifier, count: int, rng: Rng) -> bool:
    """Whether sound labels or a sound recipe are blamed: by the label map, or by one of ten worse recipes."""
    labels, answers = network.images(count, rng)
    if find_renaming(labels, answers, len(network.recall)) is not None:
        return True
    spoilt = [_spoil(labels, answers, harm, rng) for harm in (0.0, *rng.random(len(MISTAKES) - 1))]
    return _finds_recipe(labels, answers, [*spoilt[1:], network.answers(labels, rng)])  # mirrored: as good


def finds(fault: str, network: RandomClassifier, count: int, rng: Rng) -> tuple[bool, bool]:
    """Whether the gate finds a planted fault, and whether a test finds it that is told which fault to look for."""
    labels, answers = network.images(count, rng)
    classes = len(network.recall)
    if fault == "recipe":
        broken = _spoil(labels, answers, rng.uniform(0.5, 1), rng)
        others = [_spoil(labels, broken, harm, rng) for harm in rng.random(len(MISTAKES) - 1)]
        some = slice(0, MOST_IMAGES)
        told = (answers == labels)[some], (broken == labels)[some]
        return _finds_recipe(labels, broken, [*others, answers]), _is_clear(*told)
    place = _planted(fault, classes, rng)
    given = place[labels]
    return find_renaming(given, answers, classes) is not None, _is_clear(place[answers] == given, answers == given)


def _planted(fault: str, classes: int, rng: Rng) -> IntArray:
    """The wrong index of each class."""
    right = np.arange(classes)
    if fault == "two swapped":
        pair = rng.choice(classes, 2, replace=False)
        right[pair] = pair[::-1]
        return right
    if fault == "permuted":
        return rng.permutation(classes)
    return right[::-1].copy() if fault == "reversed" else (right + 1) % classes


def _spoil(labels: IntArray, answers: IntArray, harm: float, rng: Rng) -> IntArray:
    """Replace a share `harm` of the answers by those of a network with mostly constant answers."""
    favourite = rng.choice(labels)
    return np.where(rng.random(len(labels)) < harm, favourite, answers)


def _finds_recipe(labels: IntArray, answers: IntArray, tried: Sequence[IntArray]) -> bool:
    """Decide as `reference_preprocessing` does."""
    few, some = slice(0, IMAGES), slice(0, MOST_IMAGES)
    best = most_improved((answers == labels)[few], [(other == labels)[few] for other in tried], labels[few])
    if best is None:
        return False
    right, other = answers == labels, tried[best] == labels
    return is_recipe(right[some], other[some], labels[some], len(tried))


def _is_clear(right: npt.NDArray[np.bool_], broken: npt.NDArray[np.bool_]) -> bool:
    return gain_p(int((right & ~broken).sum()), int((broken & ~right).sum())) <= LEVEL


def useless_passes(classes: int, count: int, kind: str, rng: Rng) -> bool:
    """Whether answers that are independent of the images pass as a usable reference."""
    shares = draw_network(kind, 0.5, classes, rng).shares
    labels, answers = (rng.choice(classes, count, p=chances) for chances in (shares, rng.permutation(shares)))
    return len(np.unique(labels)) > 1 and doubt_of(answers == labels, labels, 0.95) is None


def settings() -> Iterator[Setting]:
    """All sensible settings."""
    combinations = (Setting(top1, classes, count) for classes in CLASSES for top1 in TOP1 for count in COUNTS)
    return (setting for setting in combinations if setting.sensible)


def study(trials: int, seed: int) -> Iterator[str]:
    """The tables, line by line."""
    yield from _blame_table(trials, np.random.default_rng(seed))
    yield ""
    yield f"| planted | classes | top-1 | {' | '.join(f'{count} images' for count in COUNTS)} |"
    yield "|---|---|---|" + "---|" * len(COUNTS)
    for number, fault in enumerate(FAULTS):
        yield from _fault_rows(fault, max(1, trials // 2), np.random.default_rng([seed, number]))
    yield ""
    yield from _useless_table(5 * trials, np.random.default_rng(seed))


def _blame_table(trials: int, rng: Rng) -> Iterator[str]:
    yield "| sound network | settings | trials | blamed | worst setting |"
    yield "|---|---|---|---|---|"
    for kind in NETWORKS:
        blamed = {}
        for setting in settings():
            drawn = (draw_network(kind, setting.top1, setting.classes, rng) for _ in range(trials))
            blamed[setting] = sum(is_blamed(network, setting.count, rng) for network in drawn)
        worst = max(blamed, key=lambda setting: blamed[setting])
        where = f"{blamed[worst]} of {trials}: top-1 {worst.top1:.0%}, {worst.classes} classes, {worst.count} images"
        total = trials * len(blamed)
        share = 100 * sum(blamed.values()) / total
        yield f"| {kind} | {len(blamed)} | {total} | {share:.2f} % | {where if blamed[worst] else '-'} |"


def _fault_rows(fault: str, trials: int, rng: Rng) -> Iterator[str]:
    for classes in CLASSES:
        if classes == 2 and fault not in {"reversed", "recipe"}:
            continue  # the only other order
        for top1 in TOP1:
            if Setting(top1, classes, 0).sensible:
                cells = [_found(fault, Setting(top1, classes, count), trials, rng) for count in COUNTS]
                yield f"| {fault} | {classes} | {top1:.0%} | {' | '.join(cells)} |"


def _found(fault: str, setting: Setting, trials: int, rng: Rng) -> str:
    """The percentage that is found, and the percentage found by a test that is told the fault."""
    drawn = (draw_network("uneven", setting.top1, setting.classes, rng) for _ in range(trials))
    hits = np.array([finds(fault, network, setting.count, rng) for network in drawn])
    return " / ".join(f"{100 * share:.0f}" for share in hits.mean(0))


def _useless_table(trials: int, rng: Rng) -> Iterator[str]:
    yield "| reference that knows nothing | trials | taken for a reference |"
    yield "|---|---|---|"
    for kind in ("even", "few classes matter"):
        taken = [useless_passes(classes, count, kind, rng) for classes in CLASSES for count in COUNTS
                 for _ in range(trials // 20)]  # fmt: skip
        yield f"| classes: {kind} | {len(taken)} | {100 * np.mean(taken):.2f} % |"


if __name__ == "__main__":
    print_study(study, "hints", __doc__, 20)
