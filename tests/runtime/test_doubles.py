"""What the doubles of CUDA and TensorRT refuse, each guard seen failing.

The guards that are not here are seen failing beside the tests that rest on them.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engine_double import (
    ContextDouble,
    EngineDouble,
    RtxEngineDouble,
    RtxLibraryDouble,
    RuntimeCacheDouble,
    RuntimeConfigDouble,
    Strategy,
)
from host_cuda import HostCuda
from tensorrt_double import LISTS, FullTensorRT

from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault


class Log:
    """What TensorRT's logger was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, _severity: int, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda()


@pytest.fixture
def engine(shared_bundle: Bundle, cuda: HostCuda) -> Iterator[EngineDouble]:
    made = EngineDouble(shared_bundle.variant_file("fp32"), cuda, ((2, 4, 8),))
    made.logger = Log()
    with cuda.current():
        yield made


def context_of(engine: EngineDouble, *arguments: Any) -> ContextDouble:
    context = engine.create_execution_context(*arguments)
    assert context is not None
    return context


class TestEngine:
    def test_two_threads_in_it(self, engine: EngineDouble):
        with engine._entered, pytest.raises(AssertionError, match="two threads are in one engine"):
            engine.create_execution_context()

    @pytest.mark.parametrize("count", [1, 9])
    def test_a_batch_that_no_profile_has(self, engine: EngineDouble, count: int):
        assert not context_of(engine).set_input_shape("input", (count, 3, 16, 16))

    def test_images_of_another_size(self, engine: EngineDouble):
        context = context_of(engine)
        assert context.set_input_shape("input", (4, 3, 16, 16))
        assert not context.set_input_shape("input", (4, 3, 16, 17))

    def test_an_address_that_is_not_aligned(self, engine: EngineDouble, cuda: HostCuda):
        context, address = context_of(engine), cuda.allocate(1024)
        assert context.set_tensor_address("input", address)
        assert not context.set_tensor_address("input", address + 128)

    def test_device_memory_that_is_not_aligned_or_too_small(self, engine: EngineDouble, cuda: HostCuda):
        context, address = context_of(engine, Strategy.USER_MANAGED), cuda.allocate(4096)
        for start, size in ((address + 128, 1000), (address, 999)):
            context.set_device_memory(start, size)
            assert context.memory is None
        assert len(engine.logger.lines) == 2
        context.set_device_memory(address, 1000)
        assert context.memory == (address, 1000)

    def test_a_context_overwrites_its_memory(self, engine: EngineDouble, cuda: HostCuda):
        """So that contexts which share a block show if one of them keeps something there."""
        context, stream = context_of(engine, Strategy.USER_MANAGED), cuda.create_stream()
        block = cuda.allocate(1000)
        context.set_device_memory(block, 1000)
        context.set_input_shape("input", (2, 3, 16, 16))
        for name, size in (("input", 2 * 3 * 16 * 16 * 4), ("logits", 2 * 10 * 4)):
            address = cuda.allocate(size)
            ctypes.memset(address, 0, size)
            context.set_tensor_address(name, address)
        seen = []
        for _ in range(2):
            assert context.execute_async_v3(stream)
            cuda.synchronize(stream)
            seen.append(bytes((ctypes.c_uint8 * 1000).from_address(block)))
        assert [set(content) for content in seen] == [{1}, {2}]


class TestRtx:
    def test_a_capture_of_what_captures_itself(self, shared_bundle: Bundle, cuda: HostCuda):
        engine = RtxEngineDouble(shared_bundle.variant_file("fp32"), cuda)
        config, stream = RuntimeConfigDouble(), cuda.create_stream()
        config.dynamic_shapes_kernel_specialization_strategy = (
            RtxLibraryDouble.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        config.cuda_graph_strategy = RtxLibraryDouble.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        with cuda.current():
            context = context_of(engine, config)
            context.set_input_shape("input", (2, 3, 16, 16))
            context.warm = True
            with pytest.raises(AssertionError, match="a capture within a capture"):
                cuda.capture(stream, lambda: context.execute_async_v3(stream))

    @pytest.mark.parametrize("content", [b"", b"RTX 1.6 on sm86:2x3x16x16", b"RTX 1.7.1 on sm89:2x3x16x16"])
    def test_kernels_of_another_version_or_gpu(self, content: bytes):
        cache = RuntimeCacheDouble()
        assert not cache.deserialize(content)
        assert cache.shapes == set()
        assert cache.deserialize(cache.HEADER + b"2x3x16x16")
        assert cache.shapes == {"2x3x16x16"}


class TestCuda:
    def test_work_that_is_late_for_its_memory(self, cuda: HostCuda):
        stream, address, host = cuda.create_stream(), cuda.allocate(16), np.zeros(16, np.uint8)
        cuda.copy_in(address, host, stream)
        cuda.free(address)
        with pytest.raises(AssertionError, match="are in memory of the device that was freed"):
            cuda.synchronize(stream)

    def test_waiting_for_the_device_during_a_capture(self, cuda: HostCuda):
        stream = cuda.create_stream()
        with pytest.raises(EnvironmentFault, match="a device can't be waited for while a stream is captured"):
            cuda.capture(stream, cuda.synchronize_device)


class TestFullTensorRT:
    def test_a_timing_cache_of_another_gpu_by_force(self):
        full = FullTensorRT(LISTS[0])
        config, cache, other = full._make_config(), full._make_cache(b""), full._make_cache(b"sm89:x")
        with pytest.raises(AssertionError):
            cache.combine(other, True)
        with pytest.raises(AssertionError):
            config.set_timing_cache(other, True)

    def test_a_shape_out_of_the_profile(self):
        full = FullTensorRT(LISTS[0])
        full.profiles.append(("input", (1, 3, 16, 16), (8, 3, 16, 16), (32, 3, 16, 16)))
        context = full._context()
        assert [context.set_input_shape("input", (count, 3, 16, 16)) for count in (0, 1, 32, 33)] == [
            False, True, True, False,
        ]  # fmt: skip
