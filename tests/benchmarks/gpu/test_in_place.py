"""The GPU checks of tensors in place, in host memory: each passes, and each is seen failing on a planted fault."""

import numpy as np
import pytest
from host_kernels import HostKernels, ThreadedHostCuda

from resnetrt.benchmarks.gpu import in_place
from resnetrt.benchmarks.gpu.kernel_engine import Allocation, KernelEngine
from resnetrt.errors import CheckFailed
from resnetrt.runtime.cuda import DeviceBuffer
from resnetrt.runtime.cuda.pool import BufferPool, Loan

# work that is late for memory which was freed is noticed where objects end, which raises nothing
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


class WaitsForNobody(HostKernels):
    def let_wait(self, waiting: int, other: int) -> None:
        """The consumer's stream runs ahead."""


class CopiesNothing(ThreadedHostCuda):
    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Nothing is copied."""


class WaitsForNoDevice(ThreadedHostCuda):
    def synchronize_device(self) -> None:
        """Streams that still read are not waited for."""


def test_a_late_input_is_waited_for():
    assert in_place.check_late_input(HostKernels())
    with pytest.raises(CheckFailed, match="a tensor that another stream writes: 50 of 50 values differ"):
        in_place.check_late_input(WaitsForNobody())


def test_unaligned_slices_are_copied():
    assert in_place.check_unaligned_input(HostKernels())["unaligned_slices"] == 4
    with pytest.raises(CheckFailed, match=r"a slice that begins at image \d: 40 of 40 values differ"):
        in_place.check_unaligned_input(HostKernels(CopiesNothing()))


def test_held_outputs_stay(monkeypatch: pytest.MonkeyPatch):
    assert in_place.check_held_outputs(HostKernels()) == {"held": 6}
    lend, loans = BufferPool.lend, dict[BufferPool, Loan]()

    def lend_the_same(pool: BufferPool) -> Loan:
        return loans.get(pool) or loans.setdefault(pool, lend(pool))

    monkeypatch.setattr(BufferPool, "lend", lend_the_same)
    with pytest.raises(CheckFailed, match="an output that is held"):
        in_place.check_held_outputs(HostKernels())


def test_a_late_reader_is_waited_for():
    assert in_place.check_late_reader(HostKernels())
    with pytest.raises(CheckFailed, match="what another stream read of an output"):
        in_place.check_late_reader(HostKernels(WaitsForNoDevice()))


def test_the_engine_is_as_strict_as_tensorrt():
    context = KernelEngine(HostKernels(), batches=(2, 4)).create_execution_context()
    assert context.infer_shapes() == ["input"]
    assert not context.set_input_shape("input", (5, 3, 7, 7))
    assert not context.set_input_shape("input", (1, 3, 7, 7))
    assert not context.set_input_shape("input", (2, 3, 7, 8))
    assert context.set_input_shape("input", (2, 3, 7, 7))
    assert context.infer_shapes() == []
    assert context.set_tensor_address("input", 512)
    assert not context.execute_async_v3(0)  # no address of the output
    assert not context.set_tensor_address("logits", 516)


def test_memory_of_the_caller_must_fit():
    """Without any that does, a run is refused."""
    kernels = HostKernels()
    engine = KernelEngine(kernels, batches=(1, 4))
    context = engine.create_execution_context(Allocation.USER_MANAGED)
    size_bytes = engine.device_memory_size_v2
    block, tensors = DeviceBuffer(kernels.cuda, size_bytes + 256), DeviceBuffer(kernels.cuda, 4096)
    assert context.set_input_shape("input", (1, 3, 7, 7))
    for name, offset in (("input", 0), ("logits", 2048)):
        assert context.set_tensor_address(name, tensors.address + offset)
    stream = kernels.cuda.create_stream()
    for address, size in ((block.address + 4, size_bytes), (block.address, size_bytes - 1)):
        context.set_device_memory(address, size)
        assert not context.execute_async_v3(stream)
    context.set_device_memory(block.address, size_bytes)
    assert context.execute_async_v3(stream)
    kernels.cuda.synchronize(stream)


def test_what_is_read_is_not_made_up():
    """A reader that copies nothing must not look right."""

    class CopiesNothingOut(ThreadedHostCuda):
        def copy_out(self, host: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", device: int, stream: int) -> None:
            """Nothing is copied."""

    with pytest.raises(CheckFailed):
        in_place.check_held_outputs(HostKernels(CopiesNothingOut()))
