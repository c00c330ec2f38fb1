"""The golden self-test: an engine's outputs beside the eager model's and its own variant's, on the bundle's images."""

import logging
from collections.abc import Iterator

import numpy as np

from resnetrt import parity
from resnetrt.errors import CheckFailed, ResnetrtError
from resnetrt.golden import Golden
from resnetrt.machine import read_cpu
from resnetrt.runtime.session import Array, Session

_log = logging.getLogger("resnetrt.runtime")
_BATCH = 8
_ALONE = 4  # images that also run one by one


def selftest(session: Session, golden: Golden, output: str) -> parity.Parity:
    """Run the golden images in batches, the first ones also alone; returns the agreement of `output` with eager.

    Batch 1 and larger batches may take different kernels and copies of the weights, so each has to agree: with the
    eager logits and, where `golden.own` holds them, with the outputs of the engine's variant. The tolerance of INT8
    beside eager is wide, and would hide a backend that computes something else than its file says. What the batches
    gave is also put in `session.selftest` and `session.same_file`. Raises `CheckFailed` with the numbers outside of the
    tolerance of backend and precision.
    """
    what = f"engine {session.sidecar['id']}"
    if golden.own is None:
        _log.warning("%s is compared with eager only: the bundle has no outputs of its variant; make that again", what)
    try:
        runs = _run(session, golden.frames, output)
        same_file = [] if golden.own is None else [parity.compare(golden.own[: len(run)], run) for run in runs]
        found = [parity.compare(golden.logits[: len(run)], run, golden.noise) for run in runs]
    except CheckFailed as error:
        raise CheckFailed(f"{what}: {error}") from error
    except ResnetrtError:
        raise
    except Exception as error:  # each backend has its own types
        raise CheckFailed(f"{what}: inference failed: {error}") from error
    backend, precision = session.sidecar["backend"], session.sidecar["precision"]
    for part, name in zip(same_file, _names(what), strict=False):
        parity.require_same_file(part, backend, precision, name, _why_another(session))
    advice = f"see which block diverges with: resnetrt verify --bisect --engine {session.sidecar['variant']}"
    for part, name in zip(found, _names(what), strict=False):
        parity.require(part, backend, precision, name, advice)
    session.same_file = same_file[0] if same_file else None
    session.selftest = found[0]
    return found[0]


def _names(what: str) -> Iterator[str]:
    yield from (what, f"{what}: single images")


def _why_another(session: Session) -> str:
    """What to do about an engine that does not compute its own file."""
    on_cpu = session.sidecar["precision"] == "int8" and session.sidecar["target"] == "cpu"
    if on_cpu and read_cpu().int8_dot_product is False:
        return "this CPU has no INT8 dot product and saturates 8-bit weights: resnetrt quantize --reduce-range"
    return "the backend computes something else than its file says; compile for another one, or with another version"


def _run(session: Session, frames: Array, output: str) -> list[Array]:
    """Outputs of all frames in batches of one size and, if the engine takes both, of the first frames one by one.

    Every new batch size costs compilation, so there are two. The last batch is filled up with the first frames again.
    """
    if output not in (spec.name for spec in session.outputs):
        found = ", ".join(spec.name for spec in session.outputs)
        raise CheckFailed(f"expected an output named {output}, found {found}")
    (low, high), count = session.batch_limits, len(frames)
    size = max(low, min(_BATCH, high or _BATCH))
    batches = [frames[np.arange(first, first + size) % count] for first in range(0, count, size)]
    runs = [np.concatenate([session.infer_frames(part)[output] for part in batches])[:count]]
    if low == 1 < size:
        alone = range(min(_ALONE, count))
        runs.append(np.concatenate([session.infer_frames(frames[at : at + 1])[output] for at in alone]))
    return runs
