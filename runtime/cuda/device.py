"""The NVIDIA devices of this machine, found without touching TensorRT, whose runtimes may crash without one."""

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, the same in the runtime API


@dataclass(frozen=True)
class Device:
    """The number of a device and its compute capability, as (8, 6)."""

    index: int
    capability: tuple[int, int]

    @property
    def target(self) -> str:
        """As engines name it: `sm86`."""
        return f"sm{self.capability[0]}{self.capability[1]}"


def find_devices() -> tuple[tuple[Device, ...], str]:
    """The devices, and why there are none; asks cuda-bindings, or else the driver library. Never raises."""
    try:
        runtime: Any = importlib.import_module("cuda.bindings.runtime")
    except Exception:  # not installed, or broken: then the driver itself
        return _ask_driver()
    try:
        return _ask_bindings(runtime)
    except Exception as error:
        return (), f"cuda-bindings failed: {error}"


def _ask_bindings(runtime: Any) -> tuple[tuple[Device, ...], str]:
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0:
        return (), f"CUDA reports {status.name}"

    def attribute(index: int, key: int) -> int:
        return int(runtime.cudaDeviceGetAttribute(runtime.cudaDeviceAttr(key), index)[1])

    devices = tuple(Device(i, (attribute(i, _MAJOR), attribute(i, _MINOR))) for i in range(count))
    return devices, "" if devices else "CUDA reports no device"


def _ask_driver() -> tuple[tuple[Device, ...], str]:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (), "no NVIDIA driver: libcuda.so.1 can't be loaded"
    if status := cuda.cuInit(0):
        return (), f"the NVIDIA driver can't start: cuInit returned {status}"
    count, value = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))

    def attribute(index: int, key: int) -> int:
        cuda.cuDeviceGetAttribute(ctypes.byref(value), key, index)
        return value.value

    devices = tuple(Device(i, (attribute(i, _MAJOR), attribute(i, _MINOR))) for i in range(count.value))
    return devices, "" if devices else "the NVIDIA driver reports no device"
