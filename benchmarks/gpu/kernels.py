"""Four small kernels for checks of the runner: compiled by NVRTC on a GPU, and functions in the tests.

All values are small integers in float32, so that every order of additions gives the same sums.
"""

import ctypes
import importlib
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, Protocol

from resnetrt.benchmarks.gpu.bundles import carried_cubins
from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.cuda import Cuda, open_cuda
from resnetrt.runtime.cuda.protocol import Stream

CLASSES = 10
TARGETS = ("sm75", "sm80", "sm86", "sm87", "sm89", "sm90", "sm100", "sm120")  # those of nvcc that are tried
NOWHERE = 16  # an address that no allocation has
_THREADS = 256
_SOURCE = """
extern "C" __global__ void add_one(float *target, const float *source, long long count) {
    long long i = blockIdx.x * (long long) blockDim.x + threadIdx.x;
    if (i < count) target[i] = source[i] + 1.0f;
}

extern "C" __global__ void classify(float *logits, const float *images, long long values) {
    const float *image = images + blockIdx.x * values;
    int k = threadIdx.x;
    float sum = 0.0f;
    for (long long i = 0; i < values; ++i) sum += image[i] * (float) ((i * 7 + k * 3) % 5 - 2);
    logits[blockIdx.x * blockDim.x + k] = sum;
}

extern "C" __global__ void spin(long long nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (now - start < (unsigned long long) nanoseconds);
}

extern "C" __global__ void write_to(int *address) { *address = 1; }
"""


class Kernels(Protocol):
    """What the engine of the checks computes with. Each call only enqueues in a stream, given by its handle."""

    cuda: Cuda

    def add_one(self, target: int, source: int, count: int, stream: int) -> None:
        """Write `source + 1` to `target`, `count` float32 each."""

    def classify(self, logits: int, images: int, count: int, values: int, stream: int) -> None:
        """Products of `count` images of `values` float32 with weights `(7 i + 3 k) mod 5 - 2` for class `k`."""

    def spin(self, milliseconds: float, stream: int) -> None:
        """Keep the stream busy."""

    def write_nowhere(self, stream: int) -> None:
        """Write to an address that belongs to nobody: the device's context is lost."""

    def let_wait(self, waiting: int, other: Stream) -> None:
        """Let what comes next in the stream `waiting` wait for what `other` holds now."""

    def free_bytes(self) -> int:
        """Free memory of the device."""


def open_kernels(folder: str = "") -> "NvrtcKernels":
    """On the first device, by cuda-bindings; compiled here, unless `folder` has what `store_cubins` left for it.

    Raises `BackendMissing`, or `ImportError` without NVRTC's bindings.
    """
    return NvrtcKernels(open_cuda("cuda-bindings"), Path(folder) if folder else None)


def store_cubins(folder: Path) -> list[Path]:
    """Compile the kernels for all usual GPUs, by nvcc, for machines without NVRTC; nothing where nvcc is not."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return []
    source = folder / "kernels.cu"
    source.write_text(_SOURCE)
    for target in TARGETS:
        architecture, out = target.replace("sm", "sm_"), folder / f"kernels-{target}.cubin"
        subprocess.run([nvcc, "-cubin", f"-arch={architecture}", "-o", out, source], capture_output=True, check=False)
    source.unlink()
    return carried_cubins(folder)


def _nvrtc() -> Any:
    return importlib.import_module("cuda.bindings.nvrtc")


def compile_cubin(nvrtc: Any, target: str) -> bytes:
    """Machine code of the kernels for `target` (sm90). It, unlike PTX, also runs on a driver older than NVRTC."""
    status, program = nvrtc.nvrtcCreateProgram(_SOURCE.encode(), b"resnetrt.cu", 0, None, None)
    _require(status, "nvrtcCreateProgram")
    (compiled,) = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture={target.replace('sm', 'sm_')}".encode()])
    if int(compiled):
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise EnvironmentFault(f"NVRTC: {compiled.name} for {target}: {log.decode(errors='replace')}")
    status, size = nvrtc.nvrtcGetCUBINSize(program)
    _require(status, "nvrtcGetCUBINSize")
    cubin = b" " * int(size)
    (status,) = nvrtc.nvrtcGetCUBIN(program, cubin)
    _require(status, "nvrtcGetCUBIN")
    return cubin


class NvrtcKernels:
    """See `Kernels`."""

    def __init__(self, cuda: Cuda, carried: Path | None = None) -> None:
        from resnetrt.runtime.cuda import find_devices

        self.cuda = cuda
        self._device = cuda.dlpack_device[1]
        self._driver: Any = importlib.import_module("cuda.bindings.driver")
        self._runtime: Any = importlib.import_module("cuda.bindings.runtime")
        self._thread = threading.local()
        target = find_devices()[0][self._device].target
        stored = [path for path in carried_cubins(carried) if path.stem == f"kernels-{target}"]
        cubin = stored[0].read_bytes() if stored else compile_cubin(_nvrtc(), target)
        self._enter()
        module = self._do("cuModuleLoadData", cubin)
        names = ("add_one", "classify", "spin", "write_to")
        self._functions = {name: self._do("cuModuleGetFunction", module, name.encode()) for name in names}

    def add_one(self, target: int, source: int, count: int, stream: int) -> None:
        """See `Kernels`."""
        self._launch("add_one", -(-count // _THREADS), _THREADS, stream, target, source, count)

    def classify(self, logits: int, images: int, count: int, values: int, stream: int) -> None:
        """See `Kernels`."""
        self._launch("classify", count, CLASSES, stream, logits, images, values)

    def spin(self, milliseconds: float, stream: int) -> None:
        """See `Kernels`."""
        self._launch("spin", 1, 1, stream, round(milliseconds * 1e6))

    def write_nowhere(self, stream: int) -> None:
        """See `Kernels`."""
        self._launch("write_to", 1, 1, stream, NOWHERE)

    def let_wait(self, waiting: int, other: Stream) -> None:
        """See `Kernels`."""
        event = self.cuda.create_event()
        self.cuda.record(event, other)
        (status,) = self._runtime.cudaStreamWaitEvent(waiting, event, 0)
        _require(status, "cudaStreamWaitEvent")
        self.cuda.destroy_event(event)

    def free_bytes(self) -> int:
        """See `Kernels`."""
        status, free, _ = self._runtime.cudaMemGetInfo()
        _require(status, "cudaMemGetInfo")
        return int(free)

    def _enter(self) -> None:
        """Make the device's context, which the runtime API shares, the current one of this thread."""
        if not getattr(self._thread, "entered", False):
            (status,) = self._runtime.cudaSetDevice(self._device)
            _require(status, "cudaSetDevice")
            self._thread.entered = True

    def _launch(self, name: str, blocks: int, threads: int, stream: int, *values: int) -> None:
        """Every parameter of the kernels has 64 bits."""
        self._enter()
        numbers = (ctypes.c_int64 * len(values))(*values)
        size = ctypes.sizeof(ctypes.c_int64)
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(numbers) + size * i for i in range(len(values))))
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        self._do("cuLaunchKernel", self._functions[name], *grid, *block, 0, int(stream), ctypes.addressof(places), 0)

    def _do(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        _require(status, name)
        return results[0] if results else None


def _require(status: Any, what: str) -> None:
    if int(status):
        raise EnvironmentFault(f"CUDA: {what} failed: {status.name}")
