"""The golden self-test: an engine's outputs beside the eager model's and its own variant's, on the bundle's images."""

import logging

import numpy as np

from resnetrt import parity
from resnetrt.errors import CheckFailed, ResnetrtError
from resnetrt.golden import Golden
from resnetrt.machine import read_cpu
from resnetrt.preprocess import UInt8Array
from resnetrt.runtime.session import Array, Session, batch_size, infer_all

_log = logging.getLogger("resnetrt.runtime")
_ALONE = 4  # images that also run one by one


def selftest(session: Session, golden: Golden, output: str) -> parity.Parity:
    """Run the golden images in batches, the first ones also alone; returns the agreement of `output` with eager.

    Batch 1 and larger batches may take different kernels and copies of the weights, so each has to agree: with the
    eager logits and, where `golden.own` holds them, with the outputs of the engine's variant. The tolerance of INT8
    beside eager is wide, and would hide a backend that computes something else than its file says. What the batches
    gave is also put in `session.selftest` and `session.same_file`. Raises `CheckFailed` with the numbers outside of the
    tolerance of backend and precision.
    """
    record = session.record
    backend, precision, what = record.backend, record.arithmetic, f"engine {record.id}"
    batches, alone = _run(session, golden.frames, output, what)
    runs = {what: batches} | ({f"{what}: single images": alone} if len(alone) else {})
    if golden.own is None:
        _log.warning("%s is compared with eager only: the bundle has no outputs of its variant; make that again", what)
    else:
        variant = _compare(what, golden.logits, golden.own, golden.noise)
        same_file = {name: _compare(name, golden.own, run, golden.noise) for name, run in runs.items()}
        for name, part in same_file.items():
            parity.require_same_file(part, variant, backend, precision, name, _why_another(session))
        session.same_file = same_file[what]
    parities = {name: _compare(name, golden.logits, run, golden.noise) for name, run in runs.items()}
    advice = f"see which block diverges with: resnetrt verify BUNDLE --bisect --engine {record.variant}"
    for name, part in parities.items():
        parity.require(part, backend, precision, name, advice)
    session.selftest = parities[what]
    return session.selftest


def _compare(what: str, reference: Array, outputs: Array, noise: float) -> parity.Parity:
    """Compare on the first images, as many as `outputs` has."""
    try:
        return parity.compare(reference[: len(outputs)], outputs, noise)
    except CheckFailed as error:
        raise CheckFailed(f"{what}: {error}") from error


def _why_another(session: Session) -> str:
    """What to do about an engine that does not compute what its file says."""
    record = session.record
    eight_bits = (record.precision, record.target) == ("int8", "cpu") and not record.reduce_range
    if eight_bits and read_cpu().int8_dot_product is False:
        return "this CPU has no INT8 dot product and saturates 8-bit weights: resnetrt quantize BUNDLE --reduce-range"
    return "the backend computes something else than its file says; compile for another one, or with another version"


def _run(session: Session, frames: UInt8Array, output: str, what: str) -> tuple[Array, Array]:
    """Outputs of all frames in batches and, if the engine takes both, of the first frames one by one.

    Every new batch size costs compilation, so there are two.
    """
    if output not in (spec.name for spec in session.outputs):
        names = ", ".join(spec.name for spec in session.outputs)
        raise CheckFailed(f"{what}: expected an output named {output}, found {names}")
    size = batch_size(session)
    both = session.batch_limits[0] == 1 < size
    try:
        images = session.prepare(frames)
        whole = infer_all(session, images, output, size)
        return whole, infer_all(session, images[:_ALONE], output, 1) if both else np.empty(0)
    except ResnetrtError:
        raise
    except Exception as error:  # each backend has its own types
        raise CheckFailed(f"{what}: inference failed: {error}") from error
