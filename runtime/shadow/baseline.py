"""The behaviour of a sound engine: how often it flips, and how much noise it adds to a single image's logits."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.engine_record import EngineParity
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.golden import Golden
from resnetrt.parity import sqnr_db, tolerance
from resnetrt.preprocess import FloatArray
from resnetrt.runtime.session import Array, Session, infer_all
from resnetrt.runtime.shadow.evidence import Values, upper_rate

Reference = Callable[[FloatArray], FloatArray]  # float32 (N, C, H, W), preprocessed, to logits (N, classes)

_MARGIN_DB = 1.0  # other batch sizes and kernels move noise by less
_WORSE_DB = 6.0  # twice the error's amplitude: too much for a difference between machines, so a fault
_QUANTILES = (0.5, 0.9, 0.99)
_FEWEST = 8
_LARGE = 8  # images of a batch
# share of requests that an engine answers unlike its copy: none is expected, so this is assumed, not measured
_EXACT_RATE = 0.001
BOUNDS = 1 + len(_QUANTILES)


@dataclass(frozen=True)
class NoiseLimit:
    """At most a share of `rate` of the images has a `relative_noise` beyond `limit`."""

    limit: float
    rate: float


@dataclass(frozen=True)
class Baseline:
    """`flip_rate` bounds the share of flips, `noise` the shares beyond several limits, the last one the highest.

    `n` is how many images were measured, `source` which.
    """

    flip_rate: float
    noise: tuple[NoiseLimit, ...]
    n: int
    source: str

    @classmethod
    def of_samples(cls, flips: npt.ArrayLike, noise: npt.ArrayLike, chance: float, source: str) -> "Baseline":
        """Bounds from what a sound engine did on `n` images: `flips` bool and `noise` `(n,)`.

        Each of the `BOUNDS` bounds is too low with a probability of at most `chance` over the choice of images,
        whatever the distribution: Clopper-Pearson's for the flips; for the noise the share beyond an order statistic,
        which does not depend on the distribution (Wilks 1941). Raises `UsageError` for fewer than 8 images.
        """
        flipped, noisy = np.asarray(flips, bool), np.sort(np.asarray(noise, np.float64))
        n = len(flipped)
        if n < _FEWEST or noisy.shape != (n,):
            raise UsageError(f"shadow baseline {source}: expected at least {_FEWEST} images, found {n}; give it more")
        floor = 10 ** (-tolerance("*", "fp32").sqnr_db / 10)  # noise that an FP32 engine is allowed counts as rounding
        limits = []
        for quantile in _QUANTILES:
            beyond = max(1, round((1 - quantile) * n))
            limit = float(noisy[n - beyond]) * 10 ** (_MARGIN_DB / 10)
            limits.append(NoiseLimit(max(limit, floor), upper_rate(beyond - 1, n, chance)))
        return cls(upper_rate(int(flipped.sum()), n, chance), tuple(limits), n, source)

    @property
    def exact(self) -> bool:
        """Whether a sound engine answers the same bit for bit, whatever the picture shows."""
        return self.noise[-1].limit == 0

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return asdict(self)


def relative_noise(reference: Array, output: Array) -> Values:
    """Per image `|out - ref|^2 / |ref|^2` of logits `(N, classes)`; infinite where the output is not finite."""
    ref, out = np.asarray(reference, np.float64), np.asarray(output, np.float64)
    signal = np.maximum(np.square(ref).sum(1), 1e-30)
    with np.errstate(invalid="ignore", over="ignore"):
        noise: Values = np.square(out - ref).sum(1) / signal
    return np.where(np.isfinite(noise), noise, np.inf)


def measure_baseline(session: Session, golden: Golden, reference: Reference, output: str, chance: float) -> Baseline:
    """Run the golden images one by one through the engine and the reference.

    Raises `CheckFailed` if the engine is already worse than when it was compiled: a fault that is there from the start
    must not become what counts as sound.
    """
    frames = golden.frames
    out = np.concatenate([answer_alone(session, session.prepare(frame[None]), output) for frame in frames])
    preprocessing = session.preprocessing
    if preprocessing is None:
        raise UsageError(f"engine {session.record.id}: no preprocessing is known; load it from its bundle")
    ref = np.concatenate([reference(preprocessing.normalize(frame[None])) for frame in frames])
    _require_as_compiled(session, sqnr_db(golden.logits, out))
    flips = out.argmax(1) != ref.argmax(1)
    return Baseline.of_samples(flips, relative_noise(ref, out), chance, "golden images")


def measure_copy(session: Session, copy: Session, golden: Golden, output: str, chance: float) -> Baseline:
    """Run the golden images through the engine, in several batch sizes, and one by one through another copy of it.

    Where all answers are the same bit for bit (every CPU engine measured so far), the baseline allows one request in a
    thousand to differ at all; otherwise it is what was measured, of each image in the batch size that is worst.
    """
    images = session.prepare(golden.frames)
    alone = np.concatenate([answer_alone(copy, image[None], output) for image in images])
    low, high = session.batch_limits
    batched = [infer_all(session, images, output, size) for size in {low, min(high or _LARGE, _LARGE)}]
    noise = np.max([relative_noise(alone, out) for out in batched], axis=0)
    if not noise.any():
        return Baseline(_EXACT_RATE, (NoiseLimit(0.0, _EXACT_RATE),), len(images), "its copy, bit for bit")
    flips = np.any([out.argmax(1) != alone.argmax(1) for out in batched], axis=0)
    return Baseline.of_samples(flips, noise, chance, "its copy")


def answer_alone(session: Session, image: Array, output: str) -> Array:
    """The logits `(1, classes)` of one image as the engine takes it, repeated where its smallest batch is larger."""
    return session.infer(np.repeat(image, session.batch_limits[0], 0))[output][:1]


def _require_as_compiled(session: Session, found_db: float) -> None:
    parity = session.record.parity
    recorded = parity.eager.sqnr_db if isinstance(parity, EngineParity) else None
    allowed = tolerance("*", "fp32").sqnr_db
    if recorded is not None and found_db < min(recorded - _WORSE_DB, allowed):
        raise CheckFailed(
            f"engine {session.record.id}: expected about {recorded:.1f} dB SQNR on the golden images, as when it "
            f"was compiled, found {found_db:.1f} dB; compile it again on this machine"
        )
