"""Many hypotheses at once: any true one is rejected with at most the promised probability."""

from collections.abc import Sequence


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p values, in the given order: step-down, monotonic, at most 1.

    Holm (1979), Scandinavian Journal of Statistics 6, 65-70: valid under any dependence.
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected
