"""Which engines of a bundle this machine can run: those built for another GPU are left out, and said."""

import importlib.util

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.parts import how_to_get


def engines_here(bundle: Bundle) -> tuple[list[str], dict[str, str]]:
    """The engines of `bundle` that this machine can run, and for each of the others why not.

    Raises `UsageError` if there are no engines, `BackendMissing` if none can run here.
    """
    names = sorted(bundle.manifest.engines)
    if not names:
        raise UsageError(f"bundle {bundle.path} has no engines yet; make one with: resnetrt compile")
    why = {name: reason for name in names if (reason := _obstacle(bundle.read_engine(name)))}
    if len(why) == len(names):
        told = "; ".join(f"{name}: {reason}" for name, reason in why.items())
        raise BackendMissing(f"bundle {bundle.path}: expected an engine that can run here, found none: {told}")
    return [name for name in names if name not in why], why


def _obstacle(record: EngineRecord) -> str:
    if record.backend == "openvino" and importlib.util.find_spec("openvino") is None:
        return f"the package openvino is not installed; run: {how_to_get('openvino')}"
    return find_compiler(record.backend).obstacle(record.target)
