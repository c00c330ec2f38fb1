"""The layers of an engine that was just built, from the engine inspector: this machine has the GPU that it is for."""

from collections.abc import Sequence
from typing import Any

from resnetrt.errors import CheckFailed
from resnetrt.export.compilers.tensorrt.layers import EngineLayer, layers_of_records
from resnetrt.export.compilers.tensorrt.log import build_error
from resnetrt.export.compilers.tensorrt.options import Profile
from resnetrt.runtime.backends.tensorrt_inspector import inspected_layers

_DEFAULT_STREAM = 0


def inspect_plan(trt: Any, logger: Any, plan: bytes, profiles: Sequence[Profile], what: str) -> list[EngineLayer]:
    """The layers of each profile at its most likely shape; empty if the inspector tells none.

    Raises `CheckFailed` with TensorRT's first error if the engine does not load.
    """
    with logger.recorded() as lines:
        runtime = trt.Runtime(logger)
        runtime.engine_host_code_allowed = True  # it was built here; version-compatible engines carry their runtime
        engine = runtime.deserialize_cuda_engine(plan)
        found = []
        for index, profile in enumerate(profiles):
            context = engine.create_execution_context() if engine is not None else None
            if context is None or not _choose(context, index, profile):
                raise CheckFailed(str(build_error(lines, what, "inspecting the engine")))
            # without its own shape set, a layer has no formats: each context tells of its own profile
            layers = layers_of_records(inspected_layers(trt, engine, context))
            found += [item for item in layers if item.profile == index]
        return found


def _choose(context: Any, index: int, profile: Profile) -> bool:
    chosen = index == 0 or context.set_optimization_profile_async(index, _DEFAULT_STREAM)
    return bool(chosen and context.set_input_shape(profile.input, profile.opt))
