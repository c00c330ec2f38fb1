"""From a bundle on disk to a checked session."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, BundleError, CheckFailed, UsageError
from resnetrt.golden import Golden
from resnetrt.runtime.backends import compile_again, find_backend
from resnetrt.runtime.selftest import selftest as run_selftest
from resnetrt.runtime.session import Session
from resnetrt.settings import read_settings

_log = logging.getLogger("resnetrt.runtime")
_PRECISION_ORDER = ("int8", "fp8", "bf16", "fp16", "fp32")


def load(
    bundle: Bundle | Path | str,
    engine: str | None = None,
    *,
    threads: int | None = None,
    selftest: bool = True,
    fallback: bool | Sequence[str] = False,
    device: str | None = None,
) -> Session:
    """Load an engine of a bundle, by default the only one, and compare it with the eager model's golden outputs.

    `threads` defaults to the setting `RESNETRT_THREADS`, and that to all cores. Without `selftest` the session is
    unchecked, which is logged as a warning. The caller closes the session. A path is opened with all hashes checked.
    `device` is the GPU for an engine that needs one, by number, UUID or MIG instance as `nvidia-smi -L` lists them; it
    defaults to the setting `RESNETRT_DEVICE`, and that to the first.

    With `fallback` an engine that fails its self-test is replaced by the next one: of the named engines, or, for true,
    of `fallback_chain`; of these, those that this machine can't run are passed over too. Each step is logged as a
    warning and stands in `session.fallbacks`.

    Raises `UsageError` (unknown engine or device, bad threads), `BundleError` (damaged bundle, engine out of date),
    `BackendMissing` (package or device not here), `CheckFailed` (self-test of the last engine tried, with the numbers).
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    name = bundle.select_engine(engine)
    if isinstance(fallback, bool):
        chain = fallback_chain(bundle, name) if fallback else []
    else:
        chain = list(map(bundle.select_engine, fallback))
    *earlier, last = [name, *chain]
    failures: list[str] = []
    for candidate in earlier:
        try:
            session = _load_one(bundle, candidate, threads, selftest, device)
        except (CheckFailed, BackendMissing) as error:
            if candidate == name and isinstance(error, BackendMissing):
                raise  # the requested engine can't run here; among fallbacks, the first one that can run will do
            failures.append(str(error))
            _log.warning("engine %s of %s can't be used, the next one is tried: %s", candidate, bundle.path, error)
        else:
            break
    else:
        session = _load_one(bundle, last, threads, selftest, device)
    session.fallbacks = tuple(failures)
    return session


def load_another(bundle: Bundle, session: Session, threads: int | None = None, device: str | None = None) -> Session:
    """Another self-tested session of the engine of `session`, for another thread.

    It shares the loaded engine where its backend can, else the engine is loaded again with `threads` on `device`.
    Raises as `load`.
    """
    sibling = session.sibling()
    if sibling is None:
        return load(bundle, session.record.id, threads=threads, device=device)
    return _checked(bundle, sibling, True)


def fallback_chain(bundle: Bundle, engine: str) -> list[str]:
    """The engines to take instead of `engine`: same backend and target, each of higher precision than the one before.

    INT8 falls back to FP16 and that to FP32, as far as the bundle has them.
    """
    own = bundle.read_engine(engine)
    others = {name: record for name in bundle.manifest.engines if (record := _readable(bundle, name))}

    def rank(record: EngineRecord) -> int:
        return _PRECISION_ORDER.index(record.precision) if record.precision in _PRECISION_ORDER else -1

    same = {name: record for name, record in others.items() if _place(record) == _place(own)}
    return sorted(
        (name for name, record in same.items() if rank(record) > rank(own)), key=lambda name: (rank(same[name]), name)
    )


def _readable(bundle: Bundle, engine: str) -> EngineRecord | None:
    """The record of an engine; None for one that can't be read, which can't stand in for another."""
    try:
        return bundle.read_engine(engine)
    except BundleError as error:
        _log.warning("engine %s of %s is no fallback: %s", engine, bundle.path, error)
        return None


def _place(record: EngineRecord) -> tuple[str, str, str]:
    """What engines that stand in for each other share: an engine for frames can't replace one for normalised images."""
    return record.backend, record.target, record.inputs[0].dtype if record.inputs else ""


def _load_one(bundle: Bundle, name: str, threads: int | None, selftest: bool, device: str | None) -> Session:
    entry, record = bundle.manifest.engines[name], bundle.read_engine(name)
    _require_current(bundle, record)
    session = find_backend(record.backend).load(bundle.file(entry.file), record, check_threads(threads), device)
    return _checked(bundle, session, selftest)


def _checked(bundle: Bundle, session: Session, selftest: bool) -> Session:
    """The session with what its bundle says of it, after its self-test; closed if that fails."""
    name = session.record.id
    session.preprocessing, session.output = bundle.manifest.preprocessing, bundle.manifest.output
    session.labels = tuple(bundle.manifest.labels) or None
    try:
        if selftest:
            run_selftest(session, Golden.of(bundle, session.record.variant), bundle.manifest.output)
        else:
            _log.warning("engine %s of %s is unchecked: its self-test was left out on request", name, bundle.path)
    except BaseException:
        session.close()
        raise
    return session


def check_threads(threads: int | None) -> int:
    """`threads`, or the setting when None. Raises `UsageError` unless this process has as many cores."""
    cores = len(os.sched_getaffinity(0))
    wanted = read_settings().threads if threads is None else threads
    if not 1 <= wanted <= cores:
        raise UsageError(f"threads: expected 1 to {cores}, the cores of this process, found {wanted}")
    return wanted


def _require_current(bundle: Bundle, record: EngineRecord) -> None:
    variant = bundle.manifest.variants.get(record.variant)
    if variant is not None and bundle.manifest.files[variant.file].sha256 != record.variant_sha256:
        raise BundleError(
            f"bundle {bundle.path}: engine {record.id} was compiled from an older variant {record.variant}; "
            f"{compile_again(record)}"
        )
