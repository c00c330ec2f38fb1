"""An engine that trtexec or another program built: read by TensorRT, then checked as any other."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.compilers.engine import CompiledEngine, require_known_options
from resnetrt.export.compilers.tensorrt.build import compiled_plan
from resnetrt.export.compilers.tensorrt.flavour import Flavour, obstacle
from resnetrt.export.compilers.tensorrt.layers import inspect_engine
from resnetrt.export.compilers.tensorrt.network import input_specs, output_specs
from resnetrt.export.compilers.tensorrt.options import Profile, TensorRTOptions
from resnetrt.export.compilers.tensorrt.parse import parse
from resnetrt.runtime.backends.tensorrt_inspector import engine_profiles, engine_specs, word
from resnetrt.runtime.backends.tensorrt_logger import first_error, make
from resnetrt.tensor_spec import TensorSpec

# what a plan does not tell of itself; the rest of the options is for building
STATED = ("version_compatible", "tf32", "dla_core", "gpu_fallback")


def import_plan(
    flavour: Flavour, plan: Path, variant_path: Path, target: str, options: Mapping[str, Any]
) -> CompiledEngine:
    """The engine in the file `plan`, which must take and give what the ONNX file does; `options` are of `STATED`.

    A version-compatible plan holds code that TensorRT runs, so it is loaded as one only if that is stated. Raises
    `BackendMissing` where TensorRT can't read it, as without its GPU, `UsageError` for a plan that does not load or has
    other inputs and outputs.
    """
    what = f"--import {plan}"
    require_known_options(f"{flavour.backend} for a plan that is imported", options, STATED)
    if reason := obstacle(flavour, target):
        raise BackendMissing(f"{what}: a plan can be read only by the GPU that it is for: {reason}; import it there")
    trt = flavour.load()
    parsed = parse(trt, variant_path)
    chosen = TensorRTOptions.from_mapping(flavour.backend, options)
    with parsed.logger.recorded() as lines:
        runtime = make(trt.Runtime, parsed.logger)
        runtime.engine_host_code_allowed = chosen.version_compatible
        blob = plan.read_bytes()
        engine = runtime.deserialize_cuda_engine(blob)
        if engine is None:
            raise UsageError(
                f"{what}: {flavour.title} {trt.__version__} can't load it: {first_error(lines) or 'it gave no reason'}"
            )
        inputs, outputs = engine_specs(engine)
        _check_interface(f"{what}: inputs", input_specs(parsed.network), inputs)
        _check_interface(f"{what}: outputs", output_specs(parsed.network), outputs)
        edges = engine_profiles(engine, inputs[0])
        profiles = tuple(Profile(low, best, high, inputs[0].name) for low, best, high in edges)
        chosen = replace(chosen, profiles=profiles, hardware_compatible=_level(engine))
        layers = inspect_engine(trt, engine, chosen.profiles, what, lines)
    about = {"portable": False, "imported": plan.name}
    return compiled_plan(flavour, trt, blob, (inputs, outputs), chosen, target, layers, "engine inspector", about)


def _check_interface(what: str, expected: tuple[TensorSpec, ...], specs: tuple[TensorSpec, ...]) -> None:
    """Raise `UsageError` unless `found` are the `expected`; a free axis may be fixed."""
    here = {spec.name: spec for spec in specs}
    for spec in expected:
        if spec.name not in here or not _fits(here[spec.name], spec):
            listed = ", ".join(map(str, specs))
            raise UsageError(f"{what}: expected {spec} as in the variant, found {listed or 'none'}")


def _fits(spec: TensorSpec, expected: TensorSpec) -> bool:
    if (spec.dtype, len(spec.shape)) != (expected.dtype, len(expected.shape)):
        return False
    return all(want in (None, got) for want, got in zip(expected.shape, spec.shape, strict=True))


def _level(engine: Any) -> str | None:
    level = word(engine.hardware_compatibility_level).lower()
    return None if level == "none" else level
