"""One sampled request after another against the reference: counts, evidence, and the requests that disagreed."""

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

from resnetrt.parity import SQNR_CAP_DB
from resnetrt.runtime.session import Array
from resnetrt.runtime.shadow.baseline import BOUNDS, Baseline, relative_noise
from resnetrt.runtime.shadow.evidence import RateEvidence

_REMEMBERED = 4096
_KEPT = 4


@dataclass(frozen=True, eq=False)
class Sample:
    """One request: its input and the engine's logits, both with a batch axis of 1, and when by a monotonic clock."""

    image: Array
    logits: Array
    at_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Judged:
    """A sample beside the reference's logits; `noise` is of `relative_noise`."""

    sample: Sample
    reference: Array
    flip: bool
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of this image, between -200 and 200 dB."""
        power = 10 * np.log10(max(self.noise, 1e-300))
        return float(np.clip(-power, -SQNR_CAP_DB, SQNR_CAP_DB))


class Judge:
    """Tests flips and noise together. `alpha` bounds the chance that a sound engine is ever called drifted.

    Half of it is spent on the tests, whose mean is compared with `threshold` (a mean of e-processes is one, however
    they depend on each other); the other half is for the baseline's bounds, see `baseline_chance`. The bound holds
    while each sample added disagrees with a chance of at most the baseline's, whatever came before: see `Scenes`.
    """

    def __init__(self, baseline: Baseline, alpha: float) -> None:
        self.baseline = baseline
        self.threshold = 2 / alpha
        self._tests = RateEvidence([baseline.flip_rate, *(item.rate for item in baseline.noise)])
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self.compared = self.flips = self.repeated = self.unusable = 0
        self._beyond = np.zeros(len(baseline.noise), np.int64)
        self.last_sqnr_db: float | None = None
        self.suspects: deque[Judged] = deque(maxlen=_KEPT)
        self.reason: str | None = None

    @property
    def evidence(self) -> float:
        """The mean of the tests; at `threshold` the engine counts as drifted."""
        return float(self._tests.value.mean())

    @property
    def noisy(self) -> int:
        """Requests beyond the highest limit of noise."""
        return int(self._beyond[-1])

    def is_new(self, image: Array) -> bool:
        """Whether this very input was not judged lately: its answer again would be no new evidence."""
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        if digest in self._known:
            self._known.move_to_end(digest)
            self.repeated += 1
            return False
        self._known[digest] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return True

    def add(self, sample: Sample, reference: Array) -> None:
        """Compare one sample; sets `reason` once the engine counts as drifted."""
        if not np.isfinite(reference).all():  # nothing to compare with: the request itself was not finite
            self.unusable += 1
            return
        broken = sample.logits.shape != reference.shape or not np.isfinite(sample.logits).all()
        noise = np.inf if broken else float(relative_noise(reference, sample.logits)[0])
        flip = broken or int(sample.logits.argmax()) != int(reference.argmax())
        judged = Judged(sample, reference, flip, noise)
        beyond = [noise > item.limit for item in self.baseline.noise]
        self.compared += 1
        self.flips += flip
        self._beyond += beyond
        self.last_sqnr_db = judged.sqnr_db
        self._tests.add([flip, *beyond])
        if flip or any(beyond):
            self.suspects.append(judged)
        if broken:
            self.reason = f"output {sample.logits.shape} is not finite or not of the reference's shape"
        elif self.evidence >= self.threshold:
            self.reason = self._words()

    def _words(self) -> str:
        base = self.baseline
        beyond = ", ".join(
            f"{count} (allowed {item.rate:.1%})" for count, item in zip(self._beyond, base.noise, strict=True)
        )
        return (
            f"of {self.compared} requests compared {self.flips} flip (the baseline allows {base.flip_rate:.1%}); "
            f"beyond its limits of noise are {beyond}"
        )


def baseline_chance(alpha: float) -> float:
    """How often each bound of a baseline may be too low, so that the whole check keeps `alpha`."""
    return alpha / 2 / BOUNDS
