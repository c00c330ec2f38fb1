"""From a bundle on disk to a checked session."""

import logging
import os
from pathlib import Path
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.errors import BundleError, UsageError
from resnetrt.golden import Golden
from resnetrt.manifest import EngineRecord
from resnetrt.runtime.backends import compile_again, find_backend
from resnetrt.runtime.selftest import selftest as run_selftest
from resnetrt.runtime.session import Session
from resnetrt.settings import read_settings

_log = logging.getLogger("resnetrt.runtime")
_SIDECAR_TEXTS = ("id", "backend", "precision", "target", "variant", "variant_sha256")


def load(
    bundle: Bundle | Path | str, engine: str | None = None, *, threads: int | None = None, selftest: bool = True
) -> Session:
    """Load an engine of a bundle, by default the only one, and compare it with the eager model's golden outputs.

    `threads` defaults to the setting `RESNETRT_THREADS`, and that to all cores. Without `selftest` the session is
    unchecked, which is logged as a warning. The caller closes the session. A path is opened with all hashes checked.

    Raises `UsageError` (unknown engine, bad threads), `BundleError` (damaged bundle, engine out of date),
    `BackendMissing` (package or device not here), `CheckFailed` (self-test, with the numbers).
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    name = bundle.select_engine(engine)
    record = bundle.manifest.engines[name]
    sidecar = _read_sidecar(bundle, name, record)
    session = find_backend(sidecar["backend"]).load(bundle.file(record.file), sidecar, check_threads(threads))
    session.preprocessing = bundle.manifest.preprocessing
    try:
        if selftest:
            run_selftest(session, Golden.of(bundle), bundle.manifest.output)
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


def _read_sidecar(bundle: Bundle, name: str, record: EngineRecord) -> dict[str, Any]:
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
