"""Parity of a bundle's engines with the eager model: the golden images, and live eager where torch is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.benchmarks.prepare import golden_frames
from resnetrt.benchmarks.reference import Reference, find_reference
from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.parity import Parity, compare, failures, tolerance
from resnetrt.preprocess import FloatArray
from resnetrt.runtime import load
from resnetrt.runtime.session import Session

_LIVE_BATCH = 8


@dataclass(frozen=True)
class EngineVerdict:
    """`golden` and `live` parity of one engine (None if not run); `problems` is empty if it passed."""

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
    """Check `engines` (default all) on the golden images and against the reference on `count` images of `data`.

    Without `data` the live check uses the golden frames. Raises `UsageError` if the bundle has no engine.
    """
    names = [bundle.select_engine(name) for name in engines] or sorted(bundle.manifest.engines)
    if not names:
        raise UsageError(f"bundle {bundle.path} has no engines to verify; make one with: resnetrt compile")
    reference = find_reference(bundle, weights)
    images = _live_images(bundle, data, count)
    expected = _batched(reference.infer, images)
    return reference, [_verify(bundle, name, images, expected) for name in names]


def _live_images(bundle: Bundle, data: str | None, count: int) -> FloatArray:
    from resnetrt.golden import Golden

    preprocessing = bundle.manifest.preprocessing
    frames = Golden.of(bundle).frames if data is None else golden_frames(data, preprocessing, count)
    return preprocessing.normalize(frames)


def _verify(bundle: Bundle, name: str, images: FloatArray, expected: FloatArray) -> EngineVerdict:
    try:
        with load(bundle, name) as session:
            live = compare(expected, _batched(lambda part: _logits(session, part), images))
            limit = tolerance(session.sidecar["backend"], session.sidecar["precision"])
            return EngineVerdict(name, session.selftest, live, tuple(failures(live, limit)))
    except CheckFailed as error:
        return EngineVerdict(name, None, None, (str(error),))


def _logits(session: Session, images: FloatArray) -> FloatArray:
    return next(iter(session.infer(images).values()))


def _batched(infer: Any, images: FloatArray) -> FloatArray:
    parts = [np.array(infer(images[i : i + _LIVE_BATCH])) for i in range(0, len(images), _LIVE_BATCH)]
    return np.concatenate(parts)
