"""The GPU checks of tensors in place, in host memory: each passes, and each is seen failing on a planted fault."""

import numpy as np
import pytest
from host_kernels import HostKernels, ThreadedHostCuda

from resnetrt.benchmarks.gpu import in_place
from resnetrt.benchmarks.gpu.kernel_engine import KernelEngine
from resnetrt.errors import CheckFailed


class WaitsForNobody(HostKernels):
    def let_wait(self, waiting: int, other: int) -> None:
        """The consumer's stream runs ahead."""


class CopiesNothing(ThreadedHostCuda):
    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Nothing is copied."""


class WaitsForNoDevice(ThreadedHostCuda):
    def synchronize_device(self) -> None:
        """Streams that still read are not waited for."""


class Overwrites(HostKernels):
    """Writes each result also where earlier ones lie."""

    seen: tuple[int, ...] = ()

    def classify(self, logits: int, images: int, count: int, values: int, stream: int) -> None:
        self.seen = (*self.seen, logits)
        for address in self.seen:
            super().classify(address, images, count, values, stream)


def test_a_late_input_is_waited_for():
    assert in_place.check_late_input(HostKernels())
    with pytest.raises(CheckFailed, match="a tensor that another stream writes: 50 of 50 values differ"):
        in_place.check_late_input(WaitsForNobody())


def test_unaligned_slices_are_copied():
    assert in_place.check_unaligned_input(HostKernels())["unaligned_slices"] == 4
    with pytest.raises(CheckFailed, match="a slice that begins at image 1"):
        in_place.check_unaligned_input(HostKernels(CopiesNothing()))


def test_held_outputs_stay():
    assert in_place.check_held_outputs(HostKernels()) == {"held": 6}
    with pytest.raises(CheckFailed, match="an output that is held"):
        in_place.check_held_outputs(Overwrites())


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


def test_what_is_read_is_not_made_up():
    """A reader that copies nothing must not look right."""

    class CopiesNothingOut(ThreadedHostCuda):
        def copy_out(self, host: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", device: int, stream: int) -> None:
            """Nothing is copied."""

    with pytest.raises(CheckFailed):
        in_place.check_held_outputs(HostKernels(CopiesNothingOut()))
