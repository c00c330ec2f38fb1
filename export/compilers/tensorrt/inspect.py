"""The layers of an engine that was just built, from the engine inspector: this machine has the GPU that it is for."""

from typing import Any

from resnetrt.errors import CheckFailed
from resnetrt.export.compilers.tensorrt.layers import EngineLayer, layer_of_record
from resnetrt.export.compilers.tensorrt.log import build_error
from resnetrt.export.compilers.tensorrt.options import Profile
from resnetrt.runtime.backends.tensorrt_inspector import inspected_layers
from resnetrt.runtime.backends.tensorrt_logger import make


def inspect_plan(trt: Any, logger: Any, plan: bytes, profile: Profile, what: str) -> list[EngineLayer]:
    """The layers at the profile's most likely shape; empty if the inspector tells none.

    Raises `CheckFailed` with TensorRT's first error if the engine does not load.
    """
    with logger.recorded() as lines:
        runtime = make(trt.Runtime, logger)
        runtime.engine_host_code_allowed = True  # it was built here; version-compatible engines carry their runtime
        engine = runtime.deserialize_cuda_engine(plan)
        context = engine.create_execution_context() if engine is not None else None
        if context is None or not context.set_input_shape(profile.input, profile.opt):
            raise CheckFailed(str(build_error(lines, what, "inspecting the engine")))
        return [layer_of_record(record) for record in inspected_layers(trt, engine, context)]
