"""The NVIDIA devices of this machine, found without touching TensorRT, whose runtimes may crash without one."""

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

from resnetrt.cuda_driver import NO_DRIVER, dotted, remedies, start_trouble, too_old

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, the same in the runtime API
_TOO_OLD = (35, 36)  # cudaErrorInsufficientDriver (also without any driver), cudaErrorCallRequiresNewerDriver


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
    except Exception as error:  # cuda-bindings 12.8 raises without a driver, later ones return a status
        return (), f"cuda-bindings failed: {error}" if _load_driver() else NO_DRIVER


def _ask_bindings(runtime: Any) -> tuple[tuple[Device, ...], str]:
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0:
        return (), _refusal(runtime, status)

    def attribute(index: int, key: int) -> int:
        return int(runtime.cudaDeviceGetAttribute(runtime.cudaDeviceAttr(key), index)[1])

    devices = tuple(Device(i, (attribute(i, _MAJOR), attribute(i, _MINOR))) for i in range(count))
    return devices, "" if devices else "CUDA reports no device"


def _refusal(runtime: Any, status: Any) -> str:
    """Why the CUDA runtime can't be used. A driver that is too old must not read like a machine without a GPU."""
    if int(status) not in _TOO_OLD:
        return start_trouble(int(status)) if int(status) >= 800 else f"CUDA reports {status.name}"
    driver, needed = (int(ask()[1]) for ask in (runtime.cudaDriverGetVersion, runtime.cudaRuntimeGetVersion))
    if driver == 0:
        return NO_DRIVER
    return f"{too_old('cuda-bindings', dotted(needed), dotted(driver))}; " + ", or run: ".join(
        remedies(dotted(needed), dotted(driver))
    )


def _load_driver() -> Any:
    """The driver library, None where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _ask_driver() -> tuple[tuple[Device, ...], str]:
    cuda = _load_driver()
    if cuda is None:
        return (), NO_DRIVER
    if status := cuda.cuInit(0):
        return (), start_trouble(status)
    count, value = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))

    def attribute(index: int, key: int) -> int:
        cuda.cuDeviceGetAttribute(ctypes.byref(value), key, index)
        return value.value

    devices = tuple(Device(i, (attribute(i, _MAJOR), attribute(i, _MINOR))) for i in range(count.value))
    return devices, "" if devices else "the NVIDIA driver reports no device"
