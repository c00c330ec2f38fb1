"""Which classes lose accuracy: the drop of each class, corrected for testing many classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.comparison import Outcomes
from resnetrt.benchmarks.accuracy.gate import Pairs, gain_p
from resnetrt.benchmarks.stats.holm import holm

Ints = npt.NDArray[np.int64]
_LOSES = 0.05  # the corrected p below which a class loses


@dataclass(frozen=True)
class ClassDrop:
    """The drop of one class over its `n` images. `p` is McNemar's exact one-sided p for a loss.

    `p_holm` is `p` corrected for the number of classes (Holm 1979, Scandinavian Journal of Statistics 6, 65-70): below
    0.05 the class loses, whatever the other classes do.
    """

    label: int
    name: str
    n: int
    drop_pp: float
    lost: float
    gained: float
    flips: int
    p: float
    p_holm: float

    @property
    def loses(self) -> bool:
        """Whether the class clearly loses."""
        return self.p_holm < _LOSES

    def to_json(self) -> dict[str, Any]:
        """The row under `classes[]` of an engine of `evaluate --json`."""
        return {
            "class": self.label,
            "name": self.name,
            "n": self.n,
            "drop_pp": self.drop_pp,
            "lost": self.lost,
            "gained": self.gained,
            "flips": self.flips,
            "p": self.p,
            "p_holm": self.p_holm,
        }


def class_drops(
    reference: Outcomes, candidate: Outcomes, labels: Ints, names: list[str], groups: Ints | None = None
) -> list[ClassDrop]:
    """One row per class that has images: first the smallest `p_holm`, then the largest drop."""
    present = [int(label) for label in np.unique(labels)]
    pairs = {}
    for label in present:
        of_class = labels == label
        first, second = (outcomes.predicted[of_class] == label for outcomes in (reference, candidate))
        pairs[label] = Pairs.count(first, second, None if groups is None else groups[of_class])
    losses = [gain_p(*pairs[label].by_winner) for label in present]
    flipped = reference.predicted != candidate.predicted
    drops = [
        ClassDrop(
            label=label,
            name=names[label] if label < len(names) else str(label),
            n=int((labels == label).sum()),
            drop_pp=pairs[label].drop_pp,
            lost=pairs[label].lost,
            gained=pairs[label].gained,
            flips=int(flipped[labels == label].sum()),
            p=p,
            p_holm=corrected,
        )
        for label, p, corrected in zip(present, losses, holm(losses), strict=True)
    ]
    return sorted(drops, key=lambda drop: (drop.p_holm, -drop.drop_pp, drop.label))
