"""The two TensorRT products that one code path serves, and the GPUs they build for."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from resnetrt.errors import BackendMissing, UsageError
from resnetrt.parts import import_part
from resnetrt.runtime.cuda import Device, choose_device, find_devices, open_cuda
from resnetrt.settings import read_settings

PORTABLE = "portable"
HERE = "gpu"
AUTO = "auto"


@dataclass(frozen=True)
class Flavour:
    """`backend` is also the module's name.

    `ahead_of_time`: it builds without a GPU, for the GPUs in `targets`; the other one builds for the GPU it sees.
    `remarks` are what to know before choosing a precision.
    `least_capability`: by precision, the first compute capability with kernels for it, and the reason in words.
    """

    backend: str
    title: str
    ahead_of_time: bool
    targets: tuple[str, ...]
    least_capability: Mapping[str, tuple[int, str]]
    remarks: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Any:
        """The module; raises `BackendMissing` if it is not installed, or needs a GPU and there is none.

        Full TensorRT crashes the process without a device, so the driver is asked first.
        """
        if not self.ahead_of_time:
            devices, reason = find_devices()
            if not devices:
                raise BackendMissing(
                    f"{self.title} builds on the GPU that the engine is for: expected one that can be used, found none "
                    f"({reason}); without one, compile with --backend tensorrt_rtx"
                )
        return import_part(self.backend, f"backend {self.backend}")


# ResNet-50 in TensorRT-RTX 1.7.1: 59 layers at FP16, each convolution with its bias, ReLU and addition in one; 107 at
# INT8 and 108 at FP8, where a second kernel after each convolution does the rest
_UNFUSED = (
    "TensorRT-RTX runs each convolution and what follows it as two layers at {} (ResNet-50: {} layers, 59 at FP16), so "
    "FP16 may well be faster: measure both on the GPU"
)
_LEAST = {
    "fp8": (89, "FP8 needs compute capability 8.9 or newer"),
    "bf16": (80, "BF16 needs compute capability 8.0 or newer"),
}
RTX = Flavour(
    "tensorrt_rtx",
    "TensorRT-RTX",
    True,
    ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
    _LEAST | {"fp32": (80, "compute capability 7.5 (Turing) has no FP32 kernels in TensorRT-RTX")},
    {"int8": _UNFUSED.format("INT8", 107), "fp8": _UNFUSED.format("FP8", 108)},
)
FULL = Flavour("tensorrt", "TensorRT", False, (HERE,), _LEAST)

# compute capabilities that TensorRT-RTX refuses, with GPUs that have them
_NOT_RTX = {
    "sm70": "V100",
    "sm87": "Jetson Orin",
    "sm90": "H100, H200, GH200",
    "sm100": "B200, GB200",
    "sm103": "B300",
    "sm110": "Jetson Thor",
}


def chosen_device(devices: Sequence[Device], what: str) -> Device:
    """The device of the setting, else the first. Raises `UsageError` for one that is not here."""
    return choose_device(devices, read_settings().device, what)


def device_here(what: str) -> Device | None:
    """The device of the setting, None where there is no device at all; raises as `chosen_device` does."""
    devices, _ = find_devices()
    return chosen_device(devices, what) if devices else None


def building_here(what: str) -> AbstractContextManager[None]:
    """A block in which what this thread builds is for the device of the setting.

    Raises `BackendMissing` if there is no CUDA package for another one than the first.
    """
    device = device_here(what)
    index = 0 if device is None else device.index
    # the first is the current one without our doing, and needs no package
    return open_cuda(read_settings().cuda, index).current() if index else nullcontext()


def resolve_rtx_target(target: str | None) -> str:
    """`portable` for None, the capability of the GPU here for `auto`, else those that are named: `sm80+sm86`.

    Raises `UsageError` for others.
    """
    if target in (None, "", PORTABLE):
        return PORTABLE
    if target == AUTO:
        devices, reason = find_devices()
        if not devices:
            raise BackendMissing(f"TensorRT-RTX, target {AUTO}: expected a GPU to build for, found none: {reason}")
        target = chosen_device(devices, RTX.title).target
    assert target is not None
    wanted = [item.strip() for item in target.replace("+", ",").split(",") if item.strip()]
    for name in wanted:
        if name in _NOT_RTX:
            raise UsageError(
                f"TensorRT-RTX does not support {name} ({_NOT_RTX[name]}): it builds for {', '.join(RTX.targets)}; "
                "use --backend tensorrt on that GPU"
            )
        if name not in RTX.targets:
            raise UsageError.unknown("tensorrt_rtx target", name, (*RTX.targets, PORTABLE))
    return "+".join(sorted(set(wanted), key=RTX.targets.index))


def resolve_full_target(target: str | None) -> str:
    """The compute capability of the GPU here, as `sm90`; raises `UsageError` if `target` is another one.

    TensorRT builds for one device, whichever others there are: that of the setting, else the first.
    """
    devices, reason = find_devices()
    own = chosen_device(devices, FULL.title).target if devices else HERE
    if target in (None, "", HERE, AUTO, own):
        return own
    others = [device for device in devices if device.target == target]
    raise UsageError(
        f"TensorRT builds for the GPU that it sees: expected target {own}, found {target}"
        + (f"; that is {others[0]}: add --device {others[0].index}" if others else f" ({reason})" if reason else "")
    )


def target_here() -> str | None:
    """The compute capability of the GPU here, as `sm86`; None without one."""
    device = device_here("import")
    return None if device is None else device.target


def gpu_here() -> str:
    """Capability and model of the GPU here, as `sm86 NVIDIA A10`; empty without one."""
    device = device_here(FULL.title)
    return "" if device is None else f"{device.target} {device.name}".strip()


def capabilities(target: str) -> list[int]:
    """Compute capabilities as numbers, 86 for `sm86`; those of `portable` are all that TensorRT-RTX builds for then."""
    if target == PORTABLE:
        return [80, 86, 89, 120, 121]
    return [int(name.removeprefix("sm")) for name in target.split("+") if name.startswith("sm")]


def obstacle(flavour: Flavour, target: str) -> str:
    """Why an engine for `target` can't run on this machine; empty if it can."""
    devices, reason = find_devices()
    if not devices:
        return f"no usable GPU: {reason}"
    device = chosen_device(devices, flavour.title)
    here = device.target
    if flavour is RTX and here not in RTX.targets:
        return f"TensorRT-RTX does not run on this GPU ({here})"
    if target == PORTABLE and device.capability < (8, 0):
        return f"this GPU is {here}, a portable engine needs sm80 or newer; compile with --target {here}"
    if target not in (PORTABLE, HERE) and here not in target.split("+"):
        return f"this GPU is {here}, the engine is for {target}"
    return ""
