"""The NVIDIA devices of this machine, found without touching TensorRT, whose runtimes may crash without one.

A device is chosen by what `nvidia-smi -L` lists: its number, its UUID or the beginning of that, or a MIG instance.
"""

import ctypes
import importlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnetrt.cuda_driver import NO_DRIVER, dotted, driver_version, remedies, start_trouble, too_old
from resnetrt.errors import UsageError
from resnetrt.forks import PROCESS
from resnetrt.settings import read_settings

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, the same in the runtime API
_MIG = "MIG-"
_started: dict[str, int] = {}  # the number of the process, by `Process.forks`, that asked first
_TOO_OLD = (35, 36)  # cudaErrorInsufficientDriver (also without any driver), cudaErrorCallRequiresNewerDriver


@dataclass(frozen=True)
class Device:
    """The number of a device and its compute capability, as (8, 6).

    `name` is its model, `uuid` its own without the prefix `GPU-` or `MIG-`, `driver` the driver's version; each is
    empty where it is unknown.
    """

    index: int
    capability: tuple[int, int]
    name: str = ""
    uuid: str = ""
    driver: str = ""

    @property
    def target(self) -> str:
        """As engines name it: `sm86`."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    def __str__(self) -> str:
        return f"device {self.index} ({self.name + ', ' if self.name else ''}{self.target})"


def choose_device(devices: Sequence[Device], wanted: str | None, what: str) -> Device:
    """The device `wanted` among `devices`, of which there is one at least; the first for None.

    Raises `UsageError`, which begins with `what`, for one that is not there.
    """
    if not wanted:
        return devices[0]
    if wanted.startswith(_MIG):
        return _choose_instance(devices, wanted, what)
    if wanted.isdecimal():
        chosen = [device for device in devices if device.index == int(wanted)]
    else:
        chosen = [device for device in devices if device.uuid and f"GPU-{device.uuid}".startswith(wanted)]
    if len(chosen) != 1:
        here = ", ".join(f"{device} GPU-{device.uuid}" if device.uuid else str(device) for device in devices)
        raise UsageError(f"{what}: expected one of {here}, found device {wanted!r} asked for; see nvidia-smi -L")
    return chosen[0]


def chosen_device(what: str, wanted: str | None = None) -> Device | None:
    """The device `wanted`, or else that of the setting, or the first; None on a machine without any.

    Raises `UsageError` as `choose_device`.
    """
    devices = find_devices()[0]
    return choose_device(devices, wanted or read_settings().device, what) if devices else None


def _choose_instance(devices: Sequence[Device], wanted: str, what: str) -> Device:
    """A process sees one MIG instance at most: the one that it was started with."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for device in devices:
        if visible == wanted or _MIG + device.uuid == wanted:
            return device
    raise UsageError(
        f"{what}: expected CUDA_VISIBLE_DEVICES={wanted}, with which alone a process sees that MIG instance, found "
        f"{visible or 'nothing'}; start the process with it"
    )


def find_devices() -> tuple[tuple[Device, ...], str]:
    """The devices, and why there are none; asks cuda-bindings, or else the driver library. Never raises.

    Asking starts CUDA, which does not survive a fork.
    """
    if _started.setdefault("forks", PROCESS.forks) != PROCESS.forks:
        return (), (
            "CUDA was started before this process was forked, and can't be used in it; start processes by spawn, as "
            "multiprocessing.get_context('spawn') does"
        )
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

    def device(index: int) -> Device:
        status, properties = runtime.cudaGetDeviceProperties(index)
        known = int(status) == 0
        name, bits = (_text(properties.name), bytes(properties.uuid.bytes)) if known else ("", b"")
        return Device(index, (attribute(index, _MAJOR), attribute(index, _MINOR)), name, _uuid(bits), driver_version())

    devices = tuple(map(device, range(count)))
    return devices, "" if devices else "CUDA reports no device"


def _text(name: bytes | str) -> str:
    """A name as CUDA gives it, with or without its zeros."""
    return (name.decode(errors="replace") if isinstance(name, bytes) else name).partition("\0")[0]


def _uuid(bits: bytes) -> str:
    return str(uuid.UUID(bytes=bits)) if len(bits) == 16 and any(bits) else ""


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

    def device(index: int) -> Device:
        name, bits = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
        if cuda.cuDeviceGetName(name, len(name), index):
            name.value = b""
        ask = getattr(cuda, "cuDeviceGetUuid_v2", None)  # of a MIG instance it gives the instance's
        known = ask is not None and not ask(bits, index)
        capability = attribute(index, _MAJOR), attribute(index, _MINOR)
        return Device(index, capability, _text(name.value), _uuid(bits.raw if known else b""), driver_version())

    devices = tuple(map(device, range(count.value)))
    return devices, "" if devices else "the NVIDIA driver reports no device"
