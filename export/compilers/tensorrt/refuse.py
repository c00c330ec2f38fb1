"""Combinations that a flavour of TensorRT can't build, refused before the build with the reason.

TensorRT would log, go on and build something else, or end in an error about something else.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from resnetrt.errors import UsageError
from resnetrt.export.compilers.tensorrt.flavour import Flavour
from resnetrt.export.compilers.tensorrt.options import NONE, Profile, TensorRTOptions
from resnetrt.runtime.backends.tensorrt_library import version_numbers
from resnetrt.tensor_spec import TensorSpec

_DLA_PRECISIONS = ("fp16", "int8")
_SPARSE_PRECISIONS = ("fp16", "int8")  # Developer Guide, Structured Sparsity
_LAST_DLA, _NEXT_DLA = (10, 7), (11, 4, 1)


def refuse_level(options: TensorRTOptions, capabilities: Sequence[int], what: str) -> None:
    """Raise `UsageError` for a hardware-compatible engine that the GPU of these `capabilities` can't build."""
    if options.hardware_compatible == "ampere_plus" and min(capabilities, default=80) < 80:
        raise UsageError(
            f"{what}: hardware_compatible ampere_plus is built on compute capability 8.0 and newer, this GPU is "
            f"sm{min(capabilities)}; leave it out"
        )


def refuse_dense(options: TensorRTOptions, sparse: int, of: int, capabilities: Sequence[int], what: str) -> None:
    """Raise `UsageError` for sparse kernels on a GPU that has none, or if `sparse` of its `of` layers are none."""
    if not options.sparse_weights:
        return
    if min(capabilities, default=80) < 80:
        raise UsageError(
            f"{what}: sparse_weights needs compute capability 8.0 or newer, this GPU is sm{min(capabilities)}; "
            "leave it out"
        )
    if not sparse:
        raise UsageError(
            f"{what}: sparse_weights has no effect: expected layers with two zeros in each four weights along the "
            f"input channels, found none among {of}; prune the model to 2:4 before the export, or leave it out"
        )


def refuse_options(flavour: Flavour, options: TensorRTOptions, precision: str, what: str) -> None:
    """Raise `UsageError` with the first reason why `flavour` can't build with these options."""
    reasons = _rtx_reasons(options) if flavour.ahead_of_time else _full_reasons(options, precision)
    for reason in reasons:
        raise UsageError(f"{what}: {reason}")


def refuse_absent(trt: Any, options: TensorRTOptions, precision: str, what: str) -> None:
    """Raise `UsageError` for an option that the TensorRT version of `trt` does not have."""
    level = (options.hardware_compatible or "none").upper()
    if level not in trt.HardwareCompatibilityLevel.__members__:
        raise UsageError(
            f"{what}: hardware_compatible {options.hardware_compatible} needs TensorRT 10.9 or newer, this is "
            f"{trt.__version__}; choose ampere_plus, or leave it out"
        )
    if options.dla_core is not None and (reason := _no_dla(str(trt.__version__), precision)):
        raise UsageError(f"{what}: {reason}")


def _no_dla(version: str, precision: str) -> str:
    """Why the DLA can't be used at `precision`: NVIDIA's page Working with DLA of 11.4.1; empty if it can."""
    numbers = version_numbers(version)
    if numbers[:2] > _LAST_DLA and numbers[:3] < _NEXT_DLA:
        return f"TensorRT {version} has no DLA: it was in 10.7 and before, and is in 11.4.1 and later"
    if numbers[:2] <= _LAST_DLA and precision == "int8":
        return (
            f"the DLA of TensorRT {version} takes INT8 by a calibration cache only, not by the Q/DQ pairs of the file; "
            "choose --precision fp16"
        )
    return ""


def _rtx_reasons(options: TensorRTOptions) -> Iterator[str]:
    if options.version_compatible:
        yield "version_compatible needs the lean runtime, which TensorRT-RTX does not have; use --backend tensorrt"
    if options.hardware_compatible:
        yield "hardware_compatible is for TensorRT; TensorRT-RTX takes several GPUs: --target sm80,sm86,sm89,sm120"
    if options.sparse_weights:
        yield "sparse_weights: TensorRT-RTX builds the same engine with and without it; use --backend tensorrt"
    if options.dla_core is not None:
        yield "TensorRT-RTX has no DLA; use --backend tensorrt on a Jetson"
    if options.timing_cache not in (None, NONE):
        yield "timing_cache: TensorRT-RTX times no tactics when it builds, its timing cache stays empty; leave it out"


def _full_reasons(options: TensorRTOptions, precision: str) -> Iterator[str]:
    if options.sparse_weights and precision not in _SPARSE_PRECISIONS:
        yield f"sparse_weights: TensorRT documents sparse kernels for fp16 and int8, not for {precision}; leave it out"
    if options.dla_core is None:
        return
    if precision not in _DLA_PRECISIONS:
        yield f"the DLA computes in fp16 and int8, not in {precision}"
    if any(profile.min != profile.max for profile in options.profiles) or len(options.profiles) > 1:
        yield "the DLA takes one fixed batch: expected one profile such as 8:8:8"
    if options.hardware_compatible:
        yield "hardware_compatible engines can't use the DLA"


def full_profiles(profiles: tuple[Profile, ...], inputs: tuple[TensorSpec, ...], what: str) -> tuple[Profile, ...]:
    """The profiles with input names and whole shapes. Raises `UsageError` for an unknown input or another axis.

    TensorRT accepts a wrong name and complains about a missing profile instead.
    """
    return tuple(_full_profile(profile, inputs, what) for profile in profiles)


def _full_profile(profile: Profile, inputs: tuple[TensorSpec, ...], what: str) -> Profile:
    specs = {spec.name: spec for spec in inputs}
    if not profile.input and len(inputs) != 1:
        raise UsageError(f"{what}: it has inputs {', '.join(specs)}; name the profile's: {inputs[0].name}=...")
    name = profile.input or inputs[0].name
    if name not in specs:
        raise UsageError.unknown(f"input of {what} in a profile", name, specs)
    shape = specs[name].shape
    edges = []
    for edge in (profile.min, profile.opt, profile.max):
        whole = (*edge, *shape[1:]) if len(edge) == 1 else edge
        if len(whole) != len(shape) or any(
            want is not None and want != got for want, got in zip(shape, whole, strict=True)
        ):
            raise UsageError(f"{what}: profile of {name}: expected {specs[name]}, found ({', '.join(map(str, whole))})")
        edges.append(tuple(axis for axis in whole if axis is not None))
    low, best, high = edges
    return Profile(low, best, high, name)
