"""Which classes lose accuracy: the drop of each class, corrected for testing many classes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.comparison import Outcomes
from resnetrt.benchmarks.accuracy.gate import Pairs, gain_p
from resnetrt.benchmarks.stats.holm import holm

Ints = npt.NDArray[np.int64]


def class_drops(
    reference: Outcomes, candidate: Outcomes, labels: Ints, names: list[str], groups: Ints | None = None
) -> list[dict[str, Any]]:
    """One row per class that has images, largest drop first.

    `p` is McNemar's exact one-sided p for a loss. `p_holm` is `p` corrected for the number of classes (Holm 1979,
    Scandinavian Journal of Statistics 6, 65-70): below 0.05 the class loses, whatever the other classes do.
    """
    rows: list[dict[str, Any]] = []
    for label in np.unique(labels):
        of_class = labels == label
        first, second = (outcomes.predicted[of_class] == label for outcomes in (reference, candidate))
        pairs = Pairs.count(first, second, None if groups is None else groups[of_class])
        losing, gaining = pairs.winners or (int(pairs.lost), int(pairs.gained))
        flips = int((reference.predicted[of_class] != candidate.predicted[of_class]).sum())
        rows.append(
            {
                "class": int(label),
                "name": names[label] if label < len(names) else str(label),
                "n": int(of_class.sum()),
                "drop_pp": pairs.drop_pp,
                "lost": pairs.lost,
                "gained": pairs.gained,
                "flips": flips,
                "p": gain_p(losing, gaining),
            }
        )
    for row, corrected in zip(rows, holm([float(row["p"]) for row in rows]), strict=True):
        row["p_holm"] = corrected
    return sorted(rows, key=lambda row: (row["p_holm"], -row["drop_pp"], row["class"]))
