"""Which engines of a bundle this machine can run, and for which backends it can make some to run at once."""

import importlib.util
from collections.abc import Sequence

from resnetrt.bundle import COMPILE, Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.compilers import COMPILERS, find_compiler
from resnetrt.parts import how_to_get


def engines_here(bundle: Bundle, wanted: Sequence[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """The engines of `bundle` that this machine can run, and for each of the others why not; of `wanted`, if given.

    Raises `UsageError` if there are no engines, `BackendMissing` if none can run here.
    """
    names = sorted(bundle.manifest.engines) if wanted is None else list(wanted)
    if not names:
        raise UsageError(f"bundle {bundle.path} has no engines yet; make one with: {COMPILE}")
    why = {name: reason for name in names if (reason := _obstacle(bundle.read_engine(name)))}
    if len(why) == len(names):
        told = "; ".join(f"{name}: {reason}" for name, reason in why.items())
        raise BackendMissing(f"bundle {bundle.path}: expected an engine that can run here, found none: {told}")
    return [name for name in names if name not in why], why


def backends_here() -> tuple[str, ...]:
    """Every backend with engines for the CPU, and those for GPUs that are installed and whose GPU is here."""
    return tuple(name for name in COMPILERS if "cpu" in find_compiler(name).TARGETS or not gpu_obstacle(name))


def gpu_obstacle(backend: str) -> str:
    """Why no engine of `backend`, compiled as it is by default, could run on this machine; empty if it could."""
    if importlib.util.find_spec(backend) is None:
        return f"the package {backend} is not installed"
    chosen = find_compiler(backend)
    return chosen.obstacle(chosen.resolve_target(None))


def _obstacle(record: EngineRecord) -> str:
    if record.backend == "openvino" and importlib.util.find_spec("openvino") is None:
        return f"the package openvino is not installed; run: {how_to_get('openvino')}"
    return find_compiler(record.backend).obstacle(record.target)
