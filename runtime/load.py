"""From a bundle on disk to a checked session."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, BundleError, CheckFailed, UsageError
from resnetrt.golden import Golden
from resnetrt.manifest import EngineEntry
from resnetrt.runtime.backends import compile_again, find_backend
from resnetrt.runtime.selftest import selftest as run_selftest
from resnetrt.runtime.session import Session
from resnetrt.settings import read_settings

_log = logging.getLogger("resnetrt.runtime")
_SIDECAR_TEXTS = ("id", "backend", "precision", "target", "variant", "variant_sha256")


_PRECISION_ORDER = ("int8", "fp8", "bf16", "fp16", "fp32")


def load(
    bundle: Bundle | Path | str,
    engine: str | None = None,
    *,
    threads: int | None = None,
    selftest: bool = True,
    fallback: bool | Sequence[str] = False,
) -> Session:
    """Load an engine of a bundle, by default the only one, and compare it with the eager model's golden outputs.

    `threads` defaults to the setting `RESNETRT_THREADS`, and that to all cores. Without `selftest` the session is
    unchecked, which is logged as a warning. The caller closes the session. A path is opened with all hashes checked.

    With `fallback` an engine that fails its self-test is replaced by the next one: of the named engines, or, for true,
    of `fallback_chain`; of these, those that this machine can't run are passed over too. Each step is logged as a
    warning and stands in `session.fallbacks`.

    Raises `UsageError` (unknown engine, bad threads), `BundleError` (damaged bundle, engine out of date),
    `BackendMissing` (package or device not here), `CheckFailed` (self-test of the last engine tried, with the numbers).
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    name = bundle.select_engine(engine)
    chain = fallback_chain(bundle, name) if isinstance(fallback, bool) else list(map(bundle.select_engine, fallback))
    *earlier, last = [name, *(chain if fallback else [])]
    failures: list[str] = []
    for candidate in earlier:
        try:
            session = _load_one(bundle, candidate, threads, selftest)
        except (CheckFailed, BackendMissing) as error:
            if candidate == name and isinstance(error, BackendMissing):
                raise  # what was asked for is not here; but of those that stand in, one that is will do
            failures.append(str(error))
            _log.warning("engine %s of %s can't be used, the next one is tried: %s", candidate, bundle.path, error)
        else:
            break
    else:
        session = _load_one(bundle, last, threads, selftest)
    session.fallbacks = tuple(failures)
    return session


def fallback_chain(bundle: Bundle, engine: str) -> list[str]:
    """The engines to take instead of `engine`: same backend and target, each of higher precision than the one before.

    INT8 falls back to FP16 and that to FP32, as far as the bundle has them.
    """
    records = {name: bundle.read_json(record.sidecar) for name, record in bundle.manifest.engines.items()}
    own = records[engine]

    def rank(sidecar: dict[str, Any]) -> int:
        precision = sidecar.get("precision")
        return _PRECISION_ORDER.index(precision) if precision in _PRECISION_ORDER else -1

    place = (own.get("backend"), own.get("target"), _input_kind(own))
    same = {
        name: item
        for name, item in records.items()
        if (item.get("backend"), item.get("target"), _input_kind(item)) == place
    }
    return sorted(
        (name for name, item in same.items() if rank(item) > rank(own)), key=lambda name: (rank(same[name]), name)
    )


def _input_kind(sidecar: dict[str, Any]) -> object:
    """Type and layout of the input: an engine for frames can't stand in for one for normalised images."""
    inputs = sidecar.get("inputs") or [{}]
    return inputs[0].get("dtype")


def _load_one(bundle: Bundle, name: str, threads: int | None, selftest: bool) -> Session:
    record = bundle.manifest.engines[name]
    sidecar = _read_sidecar(bundle, name, record)
    session = find_backend(sidecar["backend"]).load(bundle.file(record.file), sidecar, check_threads(threads))
    session.preprocessing = bundle.manifest.preprocessing
    try:
        if selftest:
            run_selftest(session, Golden.of(bundle, record.variant), bundle.manifest.output)
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


def _read_sidecar(bundle: Bundle, name: str, record: EngineEntry) -> dict[str, Any]:
    sidecar = bundle.read_json(record.sidecar)
    missing = [key for key in _SIDECAR_TEXTS if not isinstance(sidecar.get(key), str)]
    if missing or sidecar["id"] != name or not isinstance(sidecar.get("tools"), dict):
        raise BundleError(
            f"bundle {bundle.path}: {record.sidecar} does not describe engine {name}"
            f"{' (no ' + ', '.join(missing) + ')' if missing else ''}; compile the engine again"
        )
    variant = bundle.manifest.variants.get(sidecar["variant"])
    if variant is not None and bundle.manifest.files[variant.file].sha256 != sidecar["variant_sha256"]:
        raise BundleError(
            f"bundle {bundle.path}: engine {name} was compiled from an older variant {sidecar['variant']}; "
            f"{compile_again(sidecar)}"
        )
    return sidecar
