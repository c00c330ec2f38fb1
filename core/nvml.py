"""Clocks, power and temperature of NVIDIA GPUs, as the driver's management library NVML tells them; without root.

Functions and values from NVIDIA's NVML API reference. A Jetson has no NVML: see `thermals`.
"""

import ctypes
from dataclasses import dataclass
from functools import partial
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_UUID_BYTES = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE
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
    """One GPU now; None where it does not say. `limited_by` is what keeps its clocks below their maximum.

    `uuid` is the GPU's own, as `GPU-...`, also where a MIG instance of it is asked for; empty where it is unknown.
    """

    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_mhz: float | None = None
    sm_max_mhz: float | None = None
    memory_mhz: float | None = None
    memory_max_mhz: float | None = None
    limited_by: tuple[str, ...] | None = None
    uuid: str = ""

    @property
    def limits(self) -> dict[str, float | None]:
        """What does not change from moment to moment."""
        return {name: getattr(self, name) for name in ("power_limit_w", "sm_max_mhz", "memory_max_mhz")}


def read_gpu_states(library: str = LIBRARY, uuid: str = "") -> tuple[GpuState, ...]:
    """The GPUs in NVML's order, which is not CUDA's; empty where there is no NVML, or it does not start. Never raises.

    With the `uuid` of a GPU or a MIG instance, without its prefix, that GPU alone; all if NVML does not know it.
    """
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2():
            return ()
    except (OSError, AttributeError):  # no library, or one that is too old
        return ()
    try:
        named = _find(nvml, uuid) if uuid else None
        if named is not None:
            return (_state(nvml, named),)
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return ()
        return tuple(map(partial(_state_at, nvml), range(count.value)))
    finally:
        nvml.nvmlShutdown()


def _state_at(nvml: Any, index: int) -> GpuState:
    device = ctypes.c_void_p()
    failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device))
    return GpuState() if failed else _state(nvml, device)


def _find(nvml: Any, uuid: str) -> ctypes.c_void_p | None:
    """The GPU of that UUID, or of the MIG instance of that UUID, which has no clocks and power of its own."""
    device, parent = ctypes.c_void_p(), ctypes.c_void_p()
    try:
        if not nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(device)):
            return device
        if nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}".encode(), ctypes.byref(device)):
            return None
        return None if nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device, ctypes.byref(parent)) else parent
    except AttributeError:
        return None


def _uuid(nvml: Any, device: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(_UUID_BYTES)
    try:
        failed = nvml.nvmlDeviceGetUUID(device, text, ctypes.c_uint(len(text)))
    except AttributeError:
        return ""
    return "" if failed else text.value.decode(errors="replace")


def _state(nvml: Any, device: ctypes.c_void_p) -> GpuState:
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
        uuid=_uuid(nvml, device),
    )


def _scaled(value: int | None, per_unit: int) -> float | None:
    return None if value is None else value / per_unit
