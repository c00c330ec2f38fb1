"""Clocks, power and temperature of NVIDIA GPUs, as the driver's management library NVML tells them; without root.

Functions and values from NVIDIA's NVML API reference. A Jetson has no NVML: see `thermals`.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU
# nvmlClocksThrottleReasons; idle clocks and those that an application or a display asked for are no limit
_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
POWER_CAP = _REASONS[0x04]


@dataclass(frozen=True)
class GpuState:
    """One GPU now; None where it does not say. `limited_by` is what keeps its clocks below their maximum."""

    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_mhz: float | None = None
    sm_max_mhz: float | None = None
    memory_mhz: float | None = None
    memory_max_mhz: float | None = None
    limited_by: tuple[str, ...] | None = None

    @property
    def limits(self) -> dict[str, float | None]:
        """What does not change from moment to moment."""
        return {name: getattr(self, name) for name in ("power_limit_w", "sm_max_mhz", "memory_max_mhz")}


def read_gpu_states(library: str = LIBRARY) -> tuple[GpuState, ...]:
    """The GPUs in NVML's order; empty where there is no NVML, or it does not start. Never raises."""
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2():
            return ()
    except (OSError, AttributeError):  # no library, or one that is too old
        return ()
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return ()
        return tuple(_state(nvml, index) for index in range(count.value))
    finally:
        nvml.nvmlShutdown()


def _state(nvml: Any, index: int) -> GpuState:
    device = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)):
        return GpuState()

    def ask(name: str, *arguments: int, kind: Any = ctypes.c_uint) -> int | None:
        """A number; None for what this GPU, or this version of NVML, does not tell."""
        value = kind()
        try:
            failed = getattr(nvml, name)(device, *map(ctypes.c_uint, arguments), ctypes.byref(value))
        except AttributeError:
            return None
        return None if failed else int(value.value)

    reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
    return GpuState(
        temperature_c=_scaled(ask("nvmlDeviceGetTemperature", _TEMPERATURE_GPU), 1),
        power_w=_scaled(ask("nvmlDeviceGetPowerUsage"), 1000),
        power_limit_w=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit"), 1000),
        sm_mhz=_scaled(ask("nvmlDeviceGetClockInfo", _SM), 1),
        sm_max_mhz=_scaled(ask("nvmlDeviceGetMaxClockInfo", _SM), 1),
        memory_mhz=_scaled(ask("nvmlDeviceGetClockInfo", _MEMORY), 1),
        memory_max_mhz=_scaled(ask("nvmlDeviceGetMaxClockInfo", _MEMORY), 1),
        limited_by=None if reasons is None else tuple(name for bit, name in _REASONS.items() if reasons & bit),
    )


def _scaled(value: int | None, per_unit: int) -> float | None:
    return None if value is None else value / per_unit
