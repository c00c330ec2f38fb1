"""Options of a TensorRT build, under the names that trtexec has for them, checked when they are made."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnetrt.errors import UsageError
from resnetrt.export.compilers.engine import require_known_options

Shape = tuple[int, ...]
NONE = "none"  # for the timing cache
HARDWARE_LEVELS = ("ampere_plus", "same_compute_capability")


@dataclass(frozen=True)
class Profile:
    """An optimization profile of one input: smallest, most likely and largest shape.

    A shape of one number is a batch size, the other axes being the network's. Without a name it is the only input.
    """

    min: Shape
    opt: Shape
    max: Shape
    input: str = ""

    def __post_init__(self) -> None:
        shapes = (self.min, self.opt, self.max)
        text = " ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in zip(_EDGES, shapes, strict=True))
        if not self.min or len({len(shape) for shape in shapes}) != 1 or min(map(min, shapes)) < 1:
            raise UsageError(f"profile: expected positive shapes of one length, found {text}")
        if any(not low <= best <= high for low, best, high in zip(*shapes, strict=True)):
            raise UsageError(f"profile: expected min <= opt <= max, found {text}")

    def to_json(self) -> dict[str, Any]:
        """Plain lists under the field names."""
        return {"input": self.input, "min": list(self.min), "opt": list(self.opt), "max": list(self.max)}


_EDGES = ("min", "opt", "max")


@dataclass(frozen=True)
class TensorRTOptions:
    """How to build. What a flavour of TensorRT can't do is refused in `tensorrt_refuse`.

    `profiles`: one or more; kernels are tuned for the `opt` of each, so a single image has its own unless others are
    given. `workspace_mib`: limit of scratch memory (memPoolSize). `timing_cache`: file to read and update, `none` for
    none; the default is one of the user's for each TensorRT version and GPU. `version_compatible`: run on later
    versions, of 10 also on 11. `hardware_compatible`: one of `HARDWARE_LEVELS`. `dla_core` with `gpu_fallback` for what
    the DLA lacks. `tf32`: FP32 layers may use the 10-bit mantissa of TF32; off, because an FP32 engine is asked for to
    be exact. `sparse_weights`: kernels that skip zeros, where two of four weights are zero. `aux_streams`: on how many
    streams besides the caller's layers may run at most; 0 takes the least memory, the default is TensorRT's choice.
    """

    profiles: tuple[Profile, ...] = (Profile((1,), (1,), (1,)), Profile((1,), (8,), (32,)))
    workspace_mib: int | None = None
    builder_optimization_level: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    dla_core: int | None = None
    gpu_fallback: bool = False
    tf32: bool = False
    sparse_weights: bool = False
    aux_streams: int | None = None

    def __post_init__(self) -> None:
        if not self.profiles:
            raise UsageError("profiles: expected at least one")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"workspace_mib: expected at least 1, found {self.workspace_mib}")
        level = self.builder_optimization_level
        if level is not None and not 0 <= level <= 5:
            raise UsageError(f"builder_optimization_level: expected 0 to 5, found {level}")
        if self.hardware_compatible is not None and self.hardware_compatible not in HARDWARE_LEVELS:
            raise UsageError.unknown("hardware_compatible level", self.hardware_compatible, HARDWARE_LEVELS)
        if self.aux_streams is not None and self.aux_streams < 0:
            raise UsageError(f"aux_streams: expected at least 0, found {self.aux_streams}")
        if self.gpu_fallback and self.dla_core is None:
            raise UsageError("gpu_fallback: expected a dla_core with it; without one everything runs on the GPU")

    @classmethod
    def from_mapping(cls, backend: str, options: Mapping[str, Any]) -> "TensorRTOptions":
        """Options by field name; `profiles` may be text: `1:8:32` or `1:8:32,64:64:64`, batch sizes min:opt:max,
        or `input=1x3x224x224:8x3x224x224:32x3x224x224`. Raises `UsageError` for anything else.
        """
        require_known_options(backend, options, (field.name for field in dataclasses.fields(cls)))
        chosen = dict(options)
        if "profiles" in chosen:
            chosen["profiles"] = parse_profiles(chosen["profiles"])
        return cls(**chosen)

    def to_json(self) -> dict[str, Any]:
        """Those that differ from the default, and the profiles."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = {field.name for field in dataclasses.fields(self) if plain[field.name] != field.default}
        return {name: value for name, value in plain.items() if name in changed and name != "profiles"} | {
            "profiles": [profile.to_json() for profile in self.profiles]
        }


def parse_profiles(given: str | Sequence[Profile]) -> tuple[Profile, ...]:
    """Profiles from text, or as they are. Raises `UsageError` showing the form."""
    if not isinstance(given, str):
        return tuple(given)
    return tuple(_parse_profile(item.strip()) for item in given.split(",") if item.strip())


def _parse_profile(text: str) -> Profile:
    name, _, shapes = text.rpartition("=")
    try:
        edges = [tuple(int(axis) for axis in shape.split("x")) for shape in shapes.split(":")]
    except ValueError:
        edges = []
    if len(edges) == 1:
        edges *= 3
    if len(edges) != 3:
        raise UsageError(f"profile {text!r}: expected min:opt:max, such as 1:8:32 or input=1x3x224x224:8x3x224x224:...")
    low, best, high = edges
    return Profile(low, best, high, name)
