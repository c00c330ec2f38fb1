"""The golden self-test: an engine's outputs against the eager model's, on the images stored in the bundle."""

import numpy as np

from resnetrt import parity
from resnetrt.errors import CheckFailed, ResnetrtError
from resnetrt.golden import Golden
from resnetrt.runtime.session import Array, Session

_BATCH = 8
_ALONE = 4  # images that run one by one


def selftest(session: Session, golden: Golden, output: str) -> parity.Parity:
    """Run the golden images, the first ones alone and the rest in batches, and compare `output` with the eager logits.

    Batch 1 and larger batches may take different kernels and copies of the weights, so both are tried. The result is
    also put in `session.selftest`. Raises `CheckFailed` with the numbers if it is outside the tolerance of backend and
    precision.
    """
    backend, precision = session.sidecar["backend"], session.sidecar["precision"]
    what = f"engine {session.sidecar['id']}"
    try:
        found = parity.compare(golden.logits, _run(session, golden.frames, output), golden.noise)
    except CheckFailed as error:
        raise CheckFailed(f"{what}: {error}") from error
    except ResnetrtError:
        raise
    except Exception as error:  # each backend has its own types
        raise CheckFailed(f"{what}: inference failed: {error}") from error
    parity.require(found, backend, precision, what, "see which block diverges with: resnetrt verify --bisect")
    session.selftest = found
    return found


def _run(session: Session, frames: Array, output: str) -> Array:
    if output not in (spec.name for spec in session.outputs):
        found = ", ".join(spec.name for spec in session.outputs)
        raise CheckFailed(f"expected an output named {output}, found {found}")
    return np.concatenate([session.infer_frames(part)[output] for part in _parts(session, frames)])[: len(frames)]


def _parts(session: Session, frames: Array) -> list[Array]:
    """Batches of one size, the last filled up with the first images again; before them the first images, one by one.

    Every new batch size costs compilation, so there are two. An engine with limits gets batches within them.
    """
    (low, high), count = session.batch_limits, len(frames)
    size = max(low, min(_BATCH, high or _BATCH))
    start = min(_ALONE, count) if low == 1 < size else 0
    alone = [frames[at : at + 1] for at in range(start)]
    return [*alone, *(frames[np.arange(first, first + size) % count] for first in range(start, count, size))]
