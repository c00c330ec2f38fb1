"""How often an engine was judged before, and what that leaves for a verdict: alpha spent over looks.

Who adds images until an engine passes is wrong more often than each of the verdicts alone. So each look may be wrong
with a share of `1 - confidence` only, and the shares of all looks, however many, add up to one: the first gets 80 %,
each further one a fifth of the one before. That is an alpha-spending function (Lan and DeMets 1983, Biometrika 70,
659-663) of the number of looks, as how many images there will be is not known; the looks' chances are added up (Boole's
inequality), so that it holds whichever images a look adds or leaves out.
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
    """The share of `1 - confidence` that look number `look`, from 1 on, may spend."""
    return _FIRST * _NEXT ** (look - 1)


def look_spending(look: int, verdicts: int) -> tuple[Spending, Spending]:
    """What a verdict at this look may spend, and at the next one, where one FAIL of so many `verdicts` fails all."""
    now, then = (Spending(look_share(number), look_share(number) / verdicts) for number in (look, look + 1))
    return now, then


class Looks:
    """The images that each engine was judged on, in order; an engine is known by its file and its reference's.

    The same images again are the same look, whatever their order and copies; other groups are another.
    """

    def __init__(self, seen: Mapping[str, list[str]]) -> None:
        self._seen = {engine: list(samples) for engine, samples in seen.items()}

    @classmethod
    def read(cls, path: Path) -> "Looks":
        """What the results file at `path` remembers, nothing if there is none; raises `DataError` for another file.

        A file of an earlier version remembers its own run.
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
        """As `read` takes it, under `looks` of a results file."""
        return self._seen


def _sample(comparison: PairedOutcomes) -> str:
    distinct = comparison.distinct()
    order = np.argsort(distinct.images)
    digest = hashlib.sha256(distinct.images[order].tobytes() + distinct.labels[order].tobytes())
    if distinct.groups is not None:
        names = np.unique(distinct.groups[order], return_index=True, return_inverse=True)
        digest.update(names[1][names[2]].tobytes())  # each group by its first image, however the groups are numbered
    return digest.hexdigest()
