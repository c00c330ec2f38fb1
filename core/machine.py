"""What this machine is: processor, memory, NVIDIA GPUs. Nothing here raises for a part that is missing."""

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from resnetrt.cuda_driver import NO_DRIVER, dotted, start_trouble

_X86 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
_INT8_DOT_PRODUCT = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_QUERY = ("name", "driver_version", "memory.total", "compute_cap")


@dataclass(frozen=True)
class Cpu:
    """`instruction_sets` maps the names of /proc/cpuinfo that matter here to presence; empty where it is unknown."""

    model: str
    architecture: str
    cores: int
    cores_usable: int
    instruction_sets: dict[str, bool]

    @property
    def int8_dot_product(self) -> bool | None:
        """Whether INT8 products are summed in 32 bits by one instruction; without it, weights need 7 bits."""
        if not self.instruction_sets:
            return None
        return any(self.instruction_sets.get(name, False) for name in _INT8_DOT_PRODUCT)


@dataclass(frozen=True)
class Memory:
    """In bytes, None where unknown; `limit_bytes` is the container's limit."""

    total_bytes: int | None
    available_bytes: int | None
    limit_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA device."""

    name: str
    memory_bytes: int | None
    compute_capability: str | None


@dataclass(frozen=True)
class GpuReport:
    """`driver` is the display driver's version, `cuda` the highest CUDA version it serves; `detail` says why not."""

    driver: str | None = None
    cuda: str | None = None
    devices: tuple[Gpu, ...] = ()
    detail: str = ""


def cpu_model() -> str:
    """The processor's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_cpu() -> Cpu:
    """The processor and what this process may use of it."""
    machine = platform.machine()
    flags = instruction_sets(_read("/proc/cpuinfo"), machine)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cpu(cpu_model(), machine, os.cpu_count() or usable, usable, flags)


def instruction_sets(cpuinfo: str, machine: str) -> dict[str, bool]:
    """Presence of each instruction set that matters on `machine`, from the text of /proc/cpuinfo."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if match is None:
        return {}
    flags = set(match[1].split())
    return {name: name in flags for name in (_ARM if machine in {"aarch64", "arm64"} else _X86)}


def read_memory() -> Memory:
    """Memory of the machine and the limit of this control group."""
    meminfo = _read("/proc/meminfo")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return Memory(
        _kibibytes(meminfo, "MemTotal"), _kibibytes(meminfo, "MemAvailable"), int(limit) if limit.isdecimal() else None
    )


def _kibibytes(meminfo: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def read_gpus() -> GpuReport:
    """The NVIDIA devices, asked of nvidia-smi and of the driver library."""
    status, text = _output([sys.executable, "-c", _ASK_LIBCUDA])
    return combine(text if status == 0 else "", _from_nvidia_smi())


def _from_nvidia_smi() -> GpuReport:
    query = f"--query-gpu={','.join(_QUERY)}"
    status, text = _output(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    return parse_nvidia_smi(text) if status == 0 else GpuReport(detail=_first_line(text))


def parse_nvidia_smi(text: str) -> GpuReport:
    """From lines of `name, driver, MiB, capability`; a field that a device does not support is None."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines() if line.count(",") == 3]
    devices = tuple(
        Gpu(name, int(memory) * 2**20 if memory.isdecimal() else None, capability if capability[:1].isdigit() else None)
        for name, _, memory, capability in rows
    )
    return GpuReport(driver=rows[0][1] if rows else None, devices=devices, detail="" if rows else _first_line(text))


# in its own process: a broken driver may crash or leave a context behind
_ASK_LIBCUDA = """
import ctypes, json
cuda = ctypes.CDLL("libcuda.so.1")
version, count, value, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
name = ctypes.create_string_buffer(256)
cuda.cuDriverGetVersion(ctypes.byref(version))
status = cuda.cuInit(0)
if status == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
def attribute(index, key):
    cuda.cuDeviceGetAttribute(ctypes.byref(value), key, index)
    return value.value
devices = []
for index in range(count.value):
    cuda.cuDeviceGetName(name, len(name), index)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), index)
    capability = f"{attribute(index, 75)}.{attribute(index, 76)}"
    devices.append([name.value.decode(errors="replace"), size.value, capability])
print(json.dumps({"status": status, "cuda": version.value, "devices": devices}))
"""


def combine(answer: str, smi: GpuReport) -> GpuReport:
    """What the driver library answered (JSON, empty if it can't be loaded), completed by what nvidia-smi said."""
    if not answer.startswith("{"):
        return smi if smi.devices else GpuReport(detail=NO_DRIVER)
    said = json.loads(answer)
    devices = smi.devices or tuple(Gpu(name, memory, capability) for name, memory, capability in said["devices"])
    trouble = start_trouble(said["status"]) or ("" if devices else "the driver reports no device")
    return GpuReport(smi.driver, dotted(said["cuda"]), devices, trouble)


def _output(command: list[str]) -> tuple[int, str]:
    """Exit status and standard output, or else the error; 127 where the program is missing or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout or done.stderr


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
