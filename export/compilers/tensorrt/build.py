"""From typed ONNX to an engine: one path for TensorRT 10.3 to 11.x and TensorRT-RTX.

Precision is in the ONNX file; the network is strongly typed. There are no precision flags and no calibrators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnetrt.bundle import sha256_of
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.compilers.engine import CompiledEngine
from resnetrt.export.compilers.tensorrt.flavour import PORTABLE, Flavour, capabilities, gpu_here, obstacle
from resnetrt.export.compilers.tensorrt.layers import EngineLayer, inspect_plan, layers_file, parse_layers
from resnetrt.export.compilers.tensorrt.log import build_error, require_no_error
from resnetrt.export.compilers.tensorrt.network import (
    check_target_types,
    input_specs,
    network_layers,
    output_specs,
    precision_by_node,
    sparse_layers,
)
from resnetrt.export.compilers.tensorrt.options import Profile, TensorRTOptions
from resnetrt.export.compilers.tensorrt.parse import ParsedNetwork, parse
from resnetrt.export.compilers.tensorrt.progress import watched
from resnetrt.export.compilers.tensorrt.refuse import (
    full_profiles,
    refuse_absent,
    refuse_dense,
    refuse_level,
    refuse_options,
)
from resnetrt.export.compilers.tensorrt.timing_cache import timing_cache
from resnetrt.runtime.backends.tensorrt_logger import Lines
from resnetrt.tensor_spec import TensorSpec

# option: BuilderFlag of that meaning, in every version
FLAGS = {"version_compatible": "VERSION_COMPATIBLE", "sparse_weights": "SPARSE_WEIGHTS"}


def build_engine(
    flavour: Flavour, variant_path: Path, precision: str, target: str, options: Mapping[str, Any]
) -> CompiledEngine:
    """Build the engine of an ONNX file for `target`. The same input gives the same bytes with TensorRT-RTX.

    Raises `UsageError` for what can't be built, with the ONNX node, `CheckFailed` if TensorRT fails for another reason,
    `BackendMissing` if it is not here, `KeyboardInterrupt` on Ctrl-C.
    """
    what = variant_path.name
    chosen, trt = check_build(flavour, precision, options, what)
    parsed = parse(trt, variant_path)
    inputs, layers = input_specs(parsed.network), network_layers(parsed.network)
    refuse_level(chosen, capabilities(target), what)
    check_target_types(flavour, layers, capabilities(target), what)
    chosen = replace(chosen, profiles=full_profiles(chosen.profiles, inputs, what))
    sparse, of = sparse_layers(trt, parsed.network) if chosen.sparse_weights else (0, 0)
    refuse_dense(chosen, sparse, of, capabilities(target), what)
    config = parsed.builder.create_builder_config()
    timings = None if flavour.ahead_of_time else timing_cache(str(trt.__version__), gpu_here(), chosen)
    if timings is not None:
        timings.attach(config)
    with parsed.logger.recorded() as lines:
        _configure(trt, parsed.builder, config, chosen, target, what)
        require_no_error(lines, what, "configuring the build", parsed.nodes)
        plan = _build(trt, parsed, config, f"{flavour.title} {what}")
        if plan is None:
            raise build_error(lines, what, "building", parsed.nodes)
        blob = bytes(plan)
    if timings is not None:
        timings.save(config)
    inspected = [] if obstacle(flavour, target) else inspect_plan(trt, parsed.logger, blob, chosen.profiles, what)
    read_from, engine_layers = _layers_of(inspected, lines)
    about = {
        "portable": target == PORTABLE,
        "flags": _flags_set(trt, config),
        "onnx_sha256": sha256_of(variant_path),
        "layer_precisions": precision_by_node(layers),
    }
    if chosen.sparse_weights:
        about |= {"sparse_layers": sparse, "layers_with_weights": of}
    specs = inputs, output_specs(parsed.network)
    return compiled_plan(flavour, trt, blob, specs, chosen, target, engine_layers, read_from, about)


def compiled_plan(
    flavour: Flavour,
    trt: Any,
    blob: bytes,
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    options: TensorRTOptions,
    target: str,
    layers: Sequence[EngineLayer],
    read_from: str,
    about: Mapping[str, Any],
) -> CompiledEngine:
    """The plan `blob` as an engine to store; `specs` are its inputs and outputs, `about` more for its sidecar."""
    version = str(trt.__version__)
    inputs, outputs = specs
    details = {
        "flavour": flavour.backend,
        "version": version,
        "compute_capabilities": capabilities(target),
        "profiles": [profile.to_json() for profile in options.profiles],
        "engine_layers": len(layers),
    }
    return CompiledEngine(
        blob=blob,
        extension="engine",
        inputs=inputs,
        outputs=outputs,
        tools={flavour.backend: version},
        options=options.to_json(),
        details={"tensorrt": details | dict(about)},
        companions=layers_file(f"{read_from} of {flavour.backend} {version}", layers),
    )


def _layers_of(inspected: list[EngineLayer], lines: Lines) -> tuple[str, list[EngineLayer]]:
    """The source of the engine's layers, and the layers: the inspector needs the GPU, the log does not."""
    return ("engine inspector", inspected) if inspected else ("build log", parse_layers(text for _, text in lines))


def _build(trt: Any, parsed: ParsedNetwork, config: Any, label: str) -> Any:
    with watched(trt, config, label):
        return parsed.builder.build_serialized_network(parsed.network, config)


def check_build(flavour: Flavour, precision: str, options: Mapping[str, Any], what: str) -> tuple[TensorRTOptions, Any]:
    """The options of a build that can be tried here, and the package.

    Raises `UsageError` for options that `flavour` or its version here can't build with, `BackendMissing` if it is not
    here.
    """
    chosen = TensorRTOptions.from_mapping(flavour.backend, options)
    refuse_options(flavour, chosen, precision, what)
    trt = flavour.load()
    refuse_absent(trt, chosen, precision, what)
    return chosen, trt


def _configure(trt: Any, builder: Any, config: Any, options: TensorRTOptions, target: str, what: str) -> None:
    """Set everything in the builder configuration, and read it back."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.builder_optimization_level is not None:
        config.builder_optimization_level = options.builder_optimization_level
    if options.aux_streams is not None:
        config.max_aux_streams = options.aux_streams
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    for option, flag in FLAGS.items():
        if getattr(options, option):
            _set_flag(config, getattr(trt.BuilderFlag, flag), what)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: what it runs can be captured
        _set_flag(config, trt.BuilderFlag.REQUIRE_USER_ALLOCATION, what)
    for profile in options.profiles:
        _add_profile(builder, config, profile, what)
    _set_hardware(trt, config, options, target, what)


def _set_flag(config: Any, flag: Any, what: str) -> None:
    config.set_flag(flag)
    if not config.get_flag(flag):
        raise CheckFailed(f"{what}: TensorRT did not take the builder flag {flag}")


def _add_profile(builder: Any, config: Any, profile: Profile, what: str) -> None:
    added = builder.create_optimization_profile()
    added.set_shape(profile.input, profile.min, profile.opt, profile.max)
    if config.add_optimization_profile(added) < 0:
        raise UsageError(f"{what}: TensorRT refused the profile {profile.to_json()}")


def _set_hardware(trt: Any, config: Any, options: TensorRTOptions, target: str, what: str) -> None:
    if hasattr(config, "set_compute_capability") and target != PORTABLE:  # TensorRT-RTX
        wanted = capabilities(target)
        config.num_compute_capabilities = len(wanted)
        for index, number in enumerate(wanted):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), index):
                raise UsageError(f"{what}: {trt.__name__} refused the target sm{number}")
    if options.hardware_compatible:
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatible.upper())
        config.hardware_compatibility_level = level
    if options.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
        if options.gpu_fallback:
            _set_flag(config, trt.BuilderFlag.GPU_FALLBACK, what)


def _flags_set(trt: Any, config: Any) -> list[str]:
    """Names of the builder flags that are on, read back from TensorRT."""
    return sorted(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag))
