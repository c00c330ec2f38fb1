"""Parity of a bundle's engines with the eager model: as stored with the bundle, and live if torch is here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.benchmarks.verify.reference import STORED, Reference, find_reference, golden_reference
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import open_dataset
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.engines.here import engines_here
from resnetrt.golden import Golden
from resnetrt.parity import Parity, compare, failures, tolerance
from resnetrt.preprocess import FloatArray, Preprocessing, UInt8Array
from resnetrt.runtime import load
from resnetrt.runtime.session import batch_size, infer_all

GOLDEN_SEED = 20
_LIVE_BATCH = 8


@dataclass(frozen=True)
class EngineVerdict:
    """`golden` and `live` parity of one engine in batches (None if not run); `problems` is empty if it passed.

    Single images are checked too. `not_run` is why this machine can't run it, empty if it can.
    """

    engine: str
    golden: Parity | None
    live: Parity | None
    problems: tuple[str, ...]
    not_run: str = ""

    def to_json(self) -> dict[str, Any]:
        """The row of `verify --json`."""
        return {
            "engine": self.engine,
            "golden": self.golden and self.golden.to_json(),
            "live": self.live and self.live.to_json(),
            "problems": list(self.problems),
            "not_run": self.not_run or None,
            "verdict": "FAIL" if self.problems else "NOT RUN" if self.not_run else "PASS",
        }


def verify_bundle(
    bundle: Bundle, engines: Sequence[str] = (), weights: Path | None = None, data: str | None = None, count: int = 64
) -> tuple[Reference, list[EngineVerdict]]:
    """Check `engines` on the golden images, and against the reference on `count` images of `data`.

    The default is all that can run here. Without `data` the golden frames are used, and eager's stored outputs if
    eager is not here. Raises what `engines_here` and `find_reference` do.
    """
    names, elsewhere = [bundle.select_engine(name) for name in engines], dict[str, str]()
    if not names:
        names, elsewhere = engines_here(bundle)
    preprocessing = bundle.manifest.preprocessing
    golden = Golden.of(bundle)
    reference = golden_reference(bundle, golden, weights) if data is None else find_reference(bundle, weights)
    frames = golden.frames if data is None else golden_frames(data, preprocessing, count)
    if reference.name == STORED:
        expected = golden.logits
    else:
        images = preprocessing.normalize(frames)
        parts = [reference.infer(images[at : at + _LIVE_BATCH]) for at in range(0, len(images), _LIVE_BATCH)]
        expected = np.concatenate(parts)
    verdicts = [_verify(bundle, name, frames, expected, golden.noise) for name in names]
    verdicts += [EngineVerdict(name, None, None, (), why) for name, why in elsewhere.items()]
    return reference, sorted(verdicts, key=lambda verdict: verdict.engine)


def golden_frames(spec: str, preprocessing: Preprocessing, count: int) -> UInt8Array:
    """`count` images `(n, H, W, C)` of a data set, the same ones every time."""
    dataset = open_dataset(spec, preprocessing, labelled=False)
    if len(dataset) < count:
        raise UsageError(f"data {spec}: expected at least {count} images for the parity check, found {len(dataset)}")
    return np.concatenate([batch.frames for batch in dataset.subset(count, GOLDEN_SEED).batches(count)])


def _verify(bundle: Bundle, name: str, frames: UInt8Array, expected: FloatArray, noise: float) -> EngineVerdict:
    """Each engine gets frames or preprocessed images, whichever it takes; first in batches, then one by one."""
    output = bundle.manifest.output
    try:
        with load(bundle, name) as session:
            limit = tolerance(session.record.backend, session.record.arithmetic)
            sizes = dict.fromkeys((batch_size(session), session.batch_limits[0]))
            images = session.prepare(frames)
            runs = [infer_all(session, images, output, size, overlap=True) for size in sizes]
            parities = [compare(expected, logits, noise) for logits in runs]
            problems = [
                f"in batches of {size}: {problem}" if size > 1 else f"single images: {problem}"
                for size, live in zip(sizes, parities, strict=True)
                for problem in failures(live, limit)
            ]
            return EngineVerdict(name, session.selftest, parities[0], tuple(problems))
    except CheckFailed as error:
        return EngineVerdict(name, None, None, (str(error),))
