"""How often an engine was judged before, and the error probability left for this look (alpha spending).

Someone who adds images until an engine passes is wrong more often than each single verdict suggests. So each look may
use only a share of `1 - confidence`, and the shares of all looks, however many, add up to at most one: the first look
gets 80 %, each further look a fifth of the one before. This is an alpha-spending function (Lan and DeMets 1983,
Biometrika 70, 659-663) of the number of looks, because the final number of images is not known. The looks' error
probabilities are added (Boole's inequality), so the bound holds whichever images a look adds or leaves out.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy.comparison import PairedOutcomes
from resnetrt.benchmarks.accuracy.gate import Spending
from resnetrt.benchmarks.accuracy.outcomes import read_results

_FIRST, _NEXT = 0.8, 0.2


def look_share(look: int) -> float:
    """The share of `1 - confidence` that look number `look`, counted from 1, may spend."""
    return _FIRST * _NEXT ** (look - 1)


def look_spending(look: int, verdicts: int) -> tuple[Spending, Spending]:
    """What a verdict may spend at this look and at the next, if one FAIL among `verdicts` fails the whole run."""
    now, then = (Spending(look_share(number), look_share(number) / verdicts) for number in (look, look + 1))
    return now, then


class Looks:
    """The images that each engine was judged on, in order; an engine is identified by its file and its reference.

    The same images again are the same look, whatever their order and copies; a different grouping is another look.
    """

    def __init__(self, seen: Mapping[str, list[str]]) -> None:
        self._seen = {engine: list(samples) for engine, samples in seen.items()}

    @classmethod
    def read(cls, path: Path) -> "Looks":
        """The looks in the results file at `path`; none if there is no file. Raises `DataError` for any other file.

        A file of an earlier version counts as one look: its own run.
        """
        if not path.exists():
            return cls({})
        stored = read_results(path)
        if "looks" in stored.about or "engines" not in stored.about:
            return cls(stored.about.get("looks", {}))
        looks = cls({})
        looks.add(stored.about, stored.comparison)
        return looks

    def add(self, key: Mapping[str, Any], comparison: PairedOutcomes) -> dict[str, int]:
        """The number of this look by engine. `key` has the hashes of `engines`, `fp32_sha256` and the `reference`."""
        sample = _sample(comparison)
        numbers = {}
        for name, sha256 in key["engines"].items():
            seen = self._seen.setdefault(f"{sha256} {key['fp32_sha256']} {key['reference']}", [])
            if sample not in seen:
                seen.append(sample)
            numbers[name] = seen.index(sample) + 1
        return numbers

    def to_json(self) -> dict[str, list[str]]:
        """The record that `read` understands, stored under `looks` of a results file."""
        return self._seen


def _sample(comparison: PairedOutcomes) -> str:
    distinct = comparison.distinct()
    order = np.argsort(distinct.images)
    digest = hashlib.sha256(distinct.images[order].tobytes() + distinct.labels[order].tobytes())
    if distinct.groups is not None:
        names = np.unique(distinct.groups[order], return_index=True, return_inverse=True)
        digest.update(names[1][names[2]].tobytes())  # identify a group by its first image, whatever its number
    return digest.hexdigest()
