"""Parity of a bundle's engines with the eager model: on the golden images, and with live eager if torch is here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.benchmarks.verify.prepare import golden_frames
from resnetrt.benchmarks.verify.reference import STORED, Reference, find_reference
from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.golden import Golden
from resnetrt.parity import Parity, compare, failures, tolerance
from resnetrt.preprocess import FloatArray, UInt8Array
from resnetrt.runtime import load
from resnetrt.runtime.session import batch_size, infer_all

_LIVE_BATCH = 8


@dataclass(frozen=True)
class EngineVerdict:
    """`golden` and `live` parity of one engine in batches (None if not run); `problems` is empty if it passed.

    Single images are checked too.
    """

    engine: str
    golden: Parity | None
    live: Parity | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The row of `verify --json`."""
        return {
            "engine": self.engine,
            "golden": self.golden and self.golden.to_json(),
            "live": self.live and self.live.to_json(),
            "problems": list(self.problems),
            "verdict": "FAIL" if self.problems else "PASS",
        }


def verify_bundle(
    bundle: Bundle, engines: Sequence[str] = (), weights: Path | None = None, data: str | None = None, count: int = 64
) -> tuple[Reference, list[EngineVerdict]]:
    """Check `engines` (default: all) on the golden images, and against the reference on `count` images of `data`.

    Without `data` the live check uses the golden frames. Raises `UsageError` if the bundle has no engine.
    """
    names = [bundle.select_engine(name) for name in engines] or sorted(bundle.manifest.engines)
    if not names:
        raise UsageError(f"bundle {bundle.path} has no engines to verify; make one with: resnetrt compile")
    preprocessing = bundle.manifest.preprocessing
    golden = Golden.of(bundle)
    frames = golden.frames if data is None else golden_frames(data, preprocessing, count)
    reference = find_reference(bundle, weights, golden if data is None else None)
    if reference.name == STORED:
        expected = golden.logits
    else:
        images = preprocessing.normalize(frames)
        parts = [reference.infer(images[at : at + _LIVE_BATCH]) for at in range(0, len(images), _LIVE_BATCH)]
        expected = np.concatenate(parts)
    return reference, [_verify(bundle, name, frames, expected, golden.noise) for name in names]


def _verify(bundle: Bundle, name: str, frames: UInt8Array, expected: FloatArray, noise: float) -> EngineVerdict:
    """Each engine gets frames or preprocessed images, whichever it takes; first in batches, then one by one."""
    output = bundle.manifest.output
    try:
        with load(bundle, name) as session:
            limit = tolerance(session.record.backend, session.record.precision)
            sizes = dict.fromkeys((batch_size(session), session.batch_limits[0]))
            images = session.prepare(frames)
            found = [compare(expected, infer_all(session, images, output, size), noise) for size in sizes]
            problems = [
                f"in batches of {size}: {problem}" if size > 1 else f"single images: {problem}"
                for size, live in zip(sizes, found, strict=True)
                for problem in failures(live, limit)
            ]
            return EngineVerdict(name, session.selftest, found[0], tuple(problems))
    except CheckFailed as error:
        return EngineVerdict(name, None, None, (str(error),))
