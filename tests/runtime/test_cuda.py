"""The CUDA protocol: host memory here, cuda-bindings and pycuda where there is a GPU, and their absence."""

# ruff: noqa: N802, N815 - the doubles have CUDA's own names

import ctypes
import importlib
import inspect
import re
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from host_cuda import HostCuda

from resnetrt.errors import BackendMissing, DeviceLost, EnvironmentFault, UsageError
from resnetrt.forks import PROCESS
from resnetrt.runtime.cuda import Cuda, DeviceBuffer, PinnedBuffer, device, find_devices, open_cuda
from resnetrt.runtime.cuda.cuda_bindings import CudaBindings
from resnetrt.runtime.cuda.protocol import is_pinned
from resnetrt.runtime.cuda.pycuda import PyCuda


def members(kind: type) -> dict[str, inspect.Signature]:
    public = {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}
    return {name: inspect.signature(value) for name, value in public.items()}


@pytest.fixture(params=["host", "cuda-bindings", "pycuda"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    if request.param == "host":
        return HostCuda()
    try:
        return open_cuda(request.param)
    except BackendMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", [HostCuda, CudaBindings, PyCuda])
def test_every_implementation_has_the_whole_protocol(kind: type):
    methods = members(kind)
    for name, signature in members(Cuda).items():
        assert list(methods[name].parameters) == list(signature.parameters), name
    assert {"name", "supports_graphs"} <= set(vars(kind))


class TestProtocol:
    """The same for every implementation."""

    def test_copies_there_and_back(self, cuda: Cuda):
        stream = cuda.create_stream()
        source, target = PinnedBuffer(cuda, 4000), PinnedBuffer(cuda, 4000)
        device, other = DeviceBuffer(cuda, 4000), DeviceBuffer(cuda, 4000)
        source.bytes[:] = np.arange(4000) % 251
        target.bytes[:] = 0
        cuda.copy_in(device.address, source.bytes, stream)
        cuda.copy_on_device(other.address, device.address, 4000, stream)
        cuda.copy_out(target.bytes, other.address, stream)
        cuda.synchronize_device()
        np.testing.assert_array_equal(target.bytes, source.bytes)
        assert cuda.handle(stream) > 0
        cuda.destroy_stream(stream)

    def test_a_graph_reads_anew_at_each_launch(self, cuda: Cuda):
        if not cuda.supports_graphs:
            pytest.skip(f"{cuda.name} has no graphs")
        stream = cuda.create_stream()
        source, target, device = PinnedBuffer(cuda, 64), PinnedBuffer(cuda, 64), DeviceBuffer(cuda, 64)
        target.bytes[:] = 0

        def work() -> None:
            cuda.copy_in(device.address, source.bytes, stream)
            cuda.copy_out(target.bytes, device.address, stream)

        graph = cuda.capture(stream, work)
        cuda.synchronize(stream)
        assert not target.bytes.any()  # captured, not run
        for value in (3, 7):
            source.bytes[:] = value
            cuda.launch(graph, stream)
            cuda.synchronize(stream)
            assert set(target.bytes.tolist()) == {value}
        cuda.destroy_graph(graph)
        cuda.destroy_stream(stream)

    def test_a_failed_capture_leaves_the_stream_usable(self, cuda: Cuda):
        if not cuda.supports_graphs:
            pytest.skip(f"{cuda.name} has no graphs")
        stream = cuda.create_stream()
        with pytest.raises(ZeroDivisionError):
            cuda.capture(stream, lambda: 1 / 0)
        cuda.synchronize(stream)
        cuda.destroy_stream(stream)

    def test_events(self, cuda: Cuda):
        stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
        cuda.record(start, stream)
        cuda.record(end, stream)
        assert cuda.elapsed_ms(start, end) >= 0
        cuda.destroy_event(start)
        cuda.destroy_event(end)
        cuda.destroy_stream(stream)

    def test_views_of_pinned_memory(self, cuda: Cuda):
        buffer = PinnedBuffer(cuda, 100)
        view = buffer.view((3, 2), np.dtype("float32"))
        view[:] = 1
        assert buffer.bytes[:24].view("float32").tolist() == [1] * 6

    def test_device_memory_is_aligned_as_tensorrt_demands(self, cuda: Cuda):
        buffers = [DeviceBuffer(cuda, size) for size in (1, 100, 4000)]
        assert [buffer.address % 256 for buffer in buffers] == [0, 0, 0]

    def test_every_view_of_pinned_memory_keeps_it(self, cuda: Cuda):
        buffer = PinnedBuffer(cuda, 96)
        gone = weakref.ref(buffer)
        part = buffer.view((4, 6), np.dtype("float32"))[1:3].T
        del buffer
        assert is_pinned(part)
        assert gone() is not None
        assert not is_pinned(part.copy())
        del part
        assert gone() is None


class TestHost:
    def test_a_capture_refuses_what_cuda_refuses(self):
        cuda = HostCuda()
        stream = cuda.create_stream()
        with pytest.raises(EnvironmentFault, match="allocation is not allowed while a graph is captured"):
            cuda.capture(stream, lambda: cuda.allocate(1))
        with pytest.raises(EnvironmentFault, match="can't be waited for while it is captured"):
            cuda.capture(stream, lambda: cuda.synchronize(stream))

    def test_strided_copies_are_refused(self):
        cuda = HostCuda()
        with pytest.raises(EnvironmentFault, match="contiguous"):
            cuda.copy_in(0, np.zeros((4, 4))[:, 0], cuda.create_stream())


class FakeRuntime:
    """cuda.bindings.runtime over host memory: names, argument order and returned tuples as in the real one."""

    cudaHostAllocDefault = 0
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)

    class Status(int):
        @property
        def name(self) -> str:
            return {2: "cudaErrorMemoryAllocation", 700: "cudaErrorIllegalAddress"}.get(self, "cudaErrorInvalidValue")

    def __init__(self) -> None:
        self.kept: dict[int, np.ndarray] = {}
        self.status = self.Status(0)

    def cudaMalloc(self, size: int) -> tuple:
        array = np.zeros(size, np.uint8)
        self.kept[array.ctypes.data] = array
        return self.status, array.ctypes.data

    def cudaHostAlloc(self, size: int, flags: int) -> tuple:
        return self.cudaMalloc(size)

    def cudaFree(self, address: int) -> tuple:
        if not self.status:
            del self.kept[address]
        return (self.status,)

    def cudaFreeHost(self, address: int) -> tuple:
        return self.cudaFree(address)

    def cudaMemGetInfo(self) -> tuple:
        return (self.Status(0), 3 << 20, 8 << 30) if self.status == 2 else (self.status, 0, 0)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple:
        self.flags = flags
        return self.status, "stream"

    def cudaStreamCreate(self) -> tuple:
        return self.cudaStreamCreateWithFlags(0)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: object) -> tuple:
        ctypes.memmove(target, source, size)
        return (self.status,)

    def cudaStreamBeginCapture(self, stream: object, mode: int) -> tuple:
        return (self.status,)

    def cudaStreamEndCapture(self, stream: object) -> tuple:
        return self.status, "graph"

    def cudaGraphInstantiate(self, graph: str, flags: int) -> tuple:
        return self.status, f"instance of {graph}"

    def cudaGraphDestroy(self, graph: str) -> tuple:
        return (self.status,)

    def cudaGetErrorString(self, status: object) -> tuple:
        words = {2: b"out of memory", 700: b"an illegal memory access was encountered"}
        return self.Status(0), words.get(int(status), b"invalid argument")


class FakeContexts:
    """cuda.bindings.driver, as far as contexts go: what each thread has pushed."""

    def __init__(self) -> None:
        self._stacks = threading.local()

    @property
    def stack(self) -> list[str]:
        if not hasattr(self._stacks, "pushed"):
            self._stacks.pushed = []
        pushed: list[str] = self._stacks.pushed
        return pushed

    def cuGetErrorString(self, error: int) -> tuple:
        return 0, b"words"

    def cuInit(self, flags: int) -> tuple:
        return (0,)

    def cuDeviceGet(self, ordinal: int) -> tuple:
        return 0, f"device {ordinal}"

    def cuDevicePrimaryCtxRetain(self, dev: str) -> tuple:
        return 0, f"context of {dev}"

    def cuCtxPushCurrent(self, ctx: str) -> tuple:
        self.stack.append(ctx)
        return (0,)

    def cuCtxPopCurrent(self) -> tuple:
        return 0, self.stack.pop()


class TestCudaBindings:
    def test_each_call_is_the_devices_and_leaves_the_thread_as_it_was(self):
        """Also in a thread of the batcher's, where CUDA begins with device 0, and in nested blocks."""
        runtime, driver = FakeRuntime(), FakeContexts()
        cuda, seen = CudaBindings(runtime, driver, 1), []
        malloc = runtime.cudaMalloc
        runtime.cudaMalloc = lambda size: (seen.append(list(driver.stack)), malloc(size))[1]

        def work() -> None:
            cuda.allocate(8)
            with cuda.current(), cuda.current():
                cuda.allocate(8)
            seen.append(list(driver.stack))

        work()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()
        assert seen == [["context of device 1"], ["context of device 1"], []] * 2

    def test_a_failure_leaves_the_thread_as_it_was(self):
        runtime, driver = FakeRuntime(), FakeContexts()
        cuda = CudaBindings(runtime, driver, 0)
        runtime.status = runtime.Status(2)
        with pytest.raises(EnvironmentFault):
            cuda.allocate(8)
        assert driver.stack == []

    def test_copies_through_a_fake_runtime(self):
        cuda = CudaBindings(FakeRuntime(), FakeContexts(), 0)
        pinned, device = cuda.allocate_host(8), cuda.allocate(8)
        cuda.copy_in(device, np.arange(8, dtype=np.uint8), None)
        other = cuda.allocate(8)
        cuda.copy_on_device(other, device, 8, None)
        cuda.copy_out(pinned, other, None)
        assert pinned.tolist() == list(range(8))
        cuda.free(device)

    def test_the_device_is_not_waited_for_during_a_capture(self):
        """CUDA would refuse it, and spoil the capture of the other thread."""
        runtime, waiting, order = FakeRuntime(), threading.Event(), []
        cuda = CudaBindings(runtime, FakeContexts(), 0)
        runtime.cudaDeviceSynchronize = lambda: (order.append("device"), (runtime.status,))[1]

        def wait() -> None:
            waiting.set()
            cuda.synchronize_device()

        def work() -> None:
            pool.submit(wait)
            waiting.wait(10)
            time.sleep(0.05)
            order.append("captured")

        with ThreadPoolExecutor(1) as pool:
            cuda.capture(None, work)
        assert order == ["captured", "device"]

    def test_streams_do_not_wait_for_the_default_stream(self):
        runtime = FakeRuntime()
        CudaBindings(runtime, FakeContexts(), 0).create_stream()
        assert runtime.flags == FakeRuntime.cudaStreamNonBlocking

    def test_a_failure_names_the_call_and_cudas_words(self):
        runtime = FakeRuntime()
        cuda = CudaBindings(runtime, FakeContexts(), 0)
        runtime.status = runtime.Status(1)
        message = "CUDA: cudaMemcpyAsync failed: cudaErrorInvalidValue: invalid argument$"
        with pytest.raises(EnvironmentFault, match=message):
            cuda.copy_on_device(0, 0, 0, None)
        assert not cuda.lost

    def test_out_of_memory_says_how_much_was_asked_for(self):
        runtime = FakeRuntime()
        cuda = CudaBindings(runtime, FakeContexts(), 0)
        runtime.status = runtime.Status(2)
        asked = "CUDA: out of memory: expected 64.0 MiB of"
        with pytest.raises(
            EnvironmentFault, match=f"{asked} device memory, found 3.0 MiB free of 8192.0 MiB; end what"
        ):
            cuda.allocate(64 << 20)
        with pytest.raises(EnvironmentFault, match=f"{asked} pinned host memory; end what"):
            cuda.allocate_host(64 << 20)
        assert not cuda.lost

    def test_a_lost_device_is_said_and_what_frees_is_silent(self):
        """CUDA answers every later call, also those that free, with the same error."""
        runtime, driver = FakeRuntime(), FakeContexts()
        cuda = CudaBindings(runtime, driver, 0)
        device, pinned = DeviceBuffer(cuda, 8), PinnedBuffer(cuda, 8)
        cuda.check()
        runtime.status = runtime.Status(700)
        with pytest.raises(DeviceLost, match=r"cudaErrorIllegalAddress: an illegal .*; this process can't use the GPU"):
            cuda.check()
        assert "cudaErrorIllegalAddress" in cuda.lost
        cuda.free_host(pinned.bytes.ctypes.data)
        del device, pinned
        assert driver.stack == []

    def test_a_forked_process_frees_nothing(self, monkeypatch: pytest.MonkeyPatch):
        """CUDA does not survive a fork; the memory is the first process's."""
        runtime = FakeRuntime()
        cuda = CudaBindings(runtime, FakeContexts(), 0)
        address = cuda.allocate(8)
        monkeypatch.setattr(PROCESS, "forks", PROCESS.forks + 1)
        cuda.free(address)
        assert address in runtime.kept

    def test_every_name_that_is_used_exists(self):
        runtime = pytest.importorskip("cuda.bindings.runtime")
        driver = importlib.import_module("cuda.bindings.driver")
        source = inspect.getsource(sys.modules[CudaBindings.__module__])
        used = set(re.findall(r"\bcuda[A-Z]\w+", source))
        assert len(used) > 15
        enums = {**vars(runtime.cudaMemcpyKind), **vars(runtime.cudaStreamCaptureMode)}
        assert [name for name in used if not hasattr(runtime, name) and name not in enums] == []
        used = set(re.findall(r"\bcu[A-Z]\w+", source))
        assert len(used) > 4
        assert [name for name in used if not hasattr(driver, name)] == []


class FakeDriver:
    """pycuda.driver over host memory, as far as the protocol uses it, and as strict about contexts.

    `stacks` are the contexts that each thread pushed: pycuda aborts the process at its end over one that is left. What
    it made is freed with its last reference, and not at all if another thread's context is needed for that: `leaked`.
    """

    class Error(Exception):
        pass

    class MemoryError(Error):  # noqa: A001 - pycuda's name
        pass

    class Held:
        """What pycuda frees in its destructor."""

        def __init__(self, driver: "FakeDriver", **members: object) -> None:
            self.__dict__.update(members, driver=driver)

        def __del__(self) -> None:
            if not self.driver.stack:
                self.driver.leaked += 1

    class Array(np.ndarray):
        """As `pagelocked_empty` gives it: its base frees the memory."""

    def __init__(self) -> None:
        self.stacks: dict[int, list[int]] = {}
        self.leaked = 0
        self.Context = SimpleNamespace(pop=self.pop, synchronize=self.need_context)

    @property
    def stack(self) -> list[int]:
        return self.stacks.setdefault(threading.get_ident(), [])

    def pop(self) -> None:
        self.stack.pop()

    def init(self) -> None:
        pass

    def Device(self, index: int) -> object:
        def push() -> None:
            self.stack.append(index)

        return SimpleNamespace(retain_primary_context=lambda: SimpleNamespace(push=push))

    def need_context(self) -> None:
        if not self.stack:
            raise self.Error("cuMemAlloc failed: invalid device context")

    def mem_alloc(self, size: int) -> object:
        self.need_context()
        if size > 1000:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        array = np.zeros(size, np.uint8)
        allocation = type("Allocation", (self.Held,), {"__int__": lambda _: array.ctypes.data})
        return allocation(self, free=self.need_context)

    def mem_get_info(self) -> tuple[int, int]:
        self.need_context()
        return 2 << 20, 8 << 30

    def pagelocked_empty(self, shape: int, dtype: type) -> np.ndarray:
        self.need_context()
        array = np.empty(shape, dtype).view(self.Array)
        array.held = self.Held(self)
        return array

    def Stream(self, flags: int = 0) -> object:
        self.need_context()
        self.flags = flags
        return self.Held(self, handle=4711, synchronize=self.need_context)

    def Event(self) -> object:
        self.need_context()
        return self.Held(self, record=lambda _: self.need_context(), synchronize=self.need_context)

    def memcpy_htod_async(self, target: int, source: np.ndarray, stream: object) -> None:
        self.need_context()
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def memcpy_dtod_async(self, target: int, source: int, size: int, stream: object) -> None:
        self.need_context()
        ctypes.memmove(target, source, size)

    def memcpy_dtoh_async(self, target: np.ndarray, source: int, stream: object) -> None:
        self.need_context()
        ctypes.memmove(target.ctypes.data, source, target.nbytes)


class TestPyCuda:
    def test_copies_in_the_primary_context(self):
        driver = FakeDriver()
        cuda = PyCuda(driver, 0)
        stream, pinned, device = cuda.create_stream(), cuda.allocate_host(8), cuda.allocate(8)
        cuda.copy_in(device, np.arange(8, dtype=np.uint8), stream)
        other = cuda.allocate(8)
        cuda.copy_on_device(other, device, 8, stream)
        cuda.copy_out(pinned, other, stream)
        assert pinned.tolist() == list(range(8))
        cuda.free(device)
        cuda.free_host(pinned.ctypes.data)

    def test_another_thread_has_the_context_too(self):
        cuda = PyCuda(FakeDriver(), 0)
        stream, device = cuda.create_stream(), cuda.allocate(8)
        with ThreadPoolExecutor(1) as pool:  # as a batcher's
            pool.submit(cuda.copy_in, device, np.arange(8, dtype=np.uint8), stream).result()

    def test_no_thread_is_left_with_a_context(self):
        """pycuda ends the process with SIGABRT over one."""
        driver = FakeDriver()
        cuda = PyCuda(driver, 0)
        with ThreadPoolExecutor(1) as pool:
            device = pool.submit(cuda.allocate, 8).result()
        with cuda.current():
            cuda.free(device)
        with pytest.raises(EnvironmentFault):
            cuda.allocate(10**6)
        assert len(driver.stacks) == 2
        assert not any(driver.stacks.values())

    def test_what_pycuda_frees_by_itself_is_let_go_of_in_the_context(self):
        """Also in another thread than the one that made it, as finalizers may run there."""
        driver = FakeDriver()
        cuda = PyCuda(driver, 0)
        stream, event = cuda.create_stream(), cuda.create_event()
        cuda.record(event, stream)
        pinned = cuda.allocate_host(8).ctypes.data
        with ThreadPoolExecutor(1) as pool:
            for free, what in ((cuda.destroy_stream, stream), (cuda.destroy_event, event), (cuda.free_host, pinned)):
                pool.submit(free, what).result()
            pool.submit(cuda.free, cuda.allocate(8)).result()
        assert driver.leaked == 0

    def test_streams_do_not_wait_for_the_default_stream(self):
        driver = FakeDriver()
        PyCuda(driver, 0).create_stream()
        assert driver.flags == 1  # CU_STREAM_NON_BLOCKING

    def test_a_failure_is_ours(self):
        driver = FakeDriver()
        cuda = PyCuda(driver, 0)
        with pytest.raises(
            EnvironmentFault, match=r"out of memory: expected 1\.0 MiB of device memory, found 2\.0 MiB free"
        ):
            cuda.allocate(1 << 20)
        driver.mem_alloc = Mock(side_effect=driver.Error("cuMemAlloc failed: invalid argument"))
        with pytest.raises(EnvironmentFault, match=r"CUDA: pycuda: cuMemAlloc failed: invalid argument$"):
            cuda.allocate(8)
        assert not cuda.lost

    def test_a_lost_device_is_known_by_its_words(self):
        driver = FakeDriver()
        cuda = PyCuda(driver, 0)
        driver.mem_get_info = Mock(
            side_effect=driver.Error("cuMemGetInfo failed: an illegal memory access was encountered")
        )
        with pytest.raises(DeviceLost, match="this process can't use the GPU any more: end it and start it again"):
            cuda.check()
        assert "illegal memory access" in cuda.lost

    def test_it_never_makes_a_context_of_its_own(self):
        source = inspect.getsource(sys.modules[PyCuda.__module__])
        assert "make_context" not in source
        assert "import pycuda.autoinit" not in source

    def test_graphs_are_refused(self):
        with pytest.raises(EnvironmentFault, match="pycuda has no graphs"):
            PyCuda(FakeDriver(), 0).capture(None, lambda: None)


class TestDevices:
    def test_without_a_driver_there_are_none_and_the_reason_is_said(self):
        devices, reason = find_devices()
        assert bool(devices) != bool(reason)

    def test_the_driver_is_asked_where_cuda_bindings_is_missing(self, monkeypatch: pytest.MonkeyPatch):
        real = importlib.import_module

        def without(name: str, package: str | None = None) -> object:
            if name.startswith("cuda"):
                raise ModuleNotFoundError(name)
            return real(name, package)

        monkeypatch.setattr(importlib, "import_module", without)
        devices, reason = find_devices()
        assert devices or "libcuda.so.1" in reason or "cuInit" in reason or "no device" in reason

    def test_devices_as_cuda_bindings_tells_them(self, monkeypatch: pytest.MonkeyPatch):
        runtime = SimpleNamespace(
            cudaGetDeviceCount=lambda: (0, 2),
            cudaDeviceAttr=lambda key: key,
            cudaDeviceGetAttribute=lambda key, index: (0, {75: 8, 76: 6 + 3 * index}[key]),
            cudaGetDeviceProperties=lambda index: (1, None),
        )
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
        devices, reason = find_devices()
        assert ([device.target for device in devices], reason) == (["sm86", "sm89"], "")

    def test_a_driver_that_raises_is_a_reason(self, monkeypatch: pytest.MonkeyPatch):
        def fail() -> None:
            raise OSError("nothing there")

        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(cudaGetDeviceCount=fail))
        monkeypatch.setattr(device, "_load_driver", object)
        assert find_devices() == ((), "cuda-bindings failed: nothing there")


class TestOpen:
    def test_an_unknown_package_is_a_usage_error(self):
        with pytest.raises(UsageError, match="unknown CUDA package 'pyCuda'; did you mean pycuda"):
            open_cuda("pyCuda")

    def test_no_device_is_one_line(self):
        if find_devices()[0]:
            pytest.skip("there is a device")
        with pytest.raises(BackendMissing, match=r"^CUDA: expected a device 0, found 0 \(.+\)$"):
            open_cuda()

    def test_no_package_names_what_installs_it(self, monkeypatch: pytest.MonkeyPatch):
        from resnetrt.runtime.cuda import choose
        from resnetrt.runtime.cuda.device import Device

        monkeypatch.setattr(choose, "find_devices", lambda: ((Device(0, (8, 6)),), ""))
        for name in ("cuda.bindings.runtime", "pycuda.driver"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(BackendMissing, match=r"none of these imports: cuda-bindings .*; run: pip install"):
            open_cuda()

    def test_importing_the_runtime_loads_no_cuda_package(self):
        code = "import sys, resnetrt.runtime.cuda; print([n for n in sys.modules if n.startswith(('cuda', 'pycuda'))])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
