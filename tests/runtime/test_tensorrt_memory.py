"""Whose memory a batch and an output are: the caller's, until the caller lets go of it. Over host memory, no GPU."""

import gc
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import host_cuda
import numpy as np
import pytest
import tiny_bundle
from engine_double import engine_of, open_double
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.cuda import PinnedBuffer
from resnetrt.runtime.cuda.pool import BufferPool


def images(count: int, seed: int = 5) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, seed))


def assert_right(logits: np.ndarray, batch: np.ndarray) -> None:
    np.testing.assert_allclose(logits, tiny_bundle.reference(batch), rtol=0, atol=1e-4)


@pytest.fixture(params=["graphs", "layer by layer"])
def cuda(request: pytest.FixtureRequest) -> HostCuda:
    made = HostCuda()
    made.supports_graphs = request.param == "graphs"
    return made


@pytest.fixture
def session(shared_bundle: Bundle, cuda: HostCuda) -> Iterator[TensorRtSession]:
    with open_double(shared_bundle, cuda) as made:
        yield made


class TestStaging:
    def test_a_slice_is_the_batch(self, session: TensorRtSession):
        """As for the last, smaller batch of a run, whose size is new to the session."""
        buffer, batch = session.staging(8), images(8)
        buffer[...] = batch
        for part in (slice(5), slice(5), slice(2, 8), slice(7, None), slice(None, None, 2), slice(None, None, -1)):
            assert_right(session.infer(buffer[part])["logits"], batch[part])
        np.testing.assert_array_equal(buffer, batch)

    def test_other_batches_leave_it_alone(self, session: TensorRtSession):
        buffer, batch = session.staging(4), images(4)
        buffer[...] = batch
        for count in (1, 4, 8):
            session.infer(images(count, seed=count))
            session.infer_dlpack(images(count, seed=count))
        session.profile(images(4, seed=9), runs=1)
        session.execution_ms(4, runs=1)
        np.testing.assert_array_equal(buffer, batch)
        assert_right(session.infer(buffer)["logits"], batch)

    def test_two_callers_have_two(self, session: TensorRtSession):
        buffers = [session.staging(3) for _ in range(2)]
        for seed, buffer in enumerate(buffers):
            buffer[...] = images(3, seed)
        for seed, buffer in enumerate(buffers):
            assert_right(session.infer(buffer)["logits"], images(3, seed))

    def test_it_outlives_sizes_and_session(self, shared_bundle: Bundle, cuda: HostCuda):
        session = open_double(shared_bundle, cuda)
        part = session.staging(4)[1:3]
        for count in range(1, 11):
            session.infer(images(count))
        session.close()
        del session
        gc.collect()
        assert cuda.held == 1
        part[...] = 7
        assert part.sum() == 7 * part.size
        del part
        assert cuda.held == 0

    def test_neither_staging_nor_a_slice_is_copied(self, session: TensorRtSession, monkeypatch: pytest.MonkeyPatch):
        buffer, batch = session.staging(6), images(6)
        buffer[...] = batch
        monkeypatch.setattr(np, "copyto", None)  # any host copy would fail
        for part in (slice(None), slice(4)):
            assert_right(session.infer(buffer[part])["logits"], batch[part])

    @pytest.mark.parametrize("count", [0, 17])
    def test_a_batch_that_does_not_fit_is_refused(self, session: TensorRtSession, count: int):
        with pytest.raises(UsageError, match=rf"expected 1 to 16 images in a batch, found {count}"):
            session.staging(count)

    def test_it_is_there_while_the_interpreter_ends(self):
        """A camera's thread writes on; freed memory would crash the process after its work is done."""
        code = """
import atexit
from resnetrt.runtime.cuda import PinnedBuffer
from host_cuda import HostCuda
atexit.register(lambda: print(cuda.held))
cuda = HostCuda()
array = PinnedBuffer(cuda, 8).bytes
"""
        environment = os.environ | {"PYTHONPATH": str(Path(host_cuda.__file__).parent)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "1\n"


class TestFailedRuns:
    def test_the_callers_memory_is_free_afterwards(self, session: TensorRtSession, cuda: HostCuda):
        """The copy to the device was enqueued before TensorRT failed, and reads what the caller may free now."""
        session.infer(images(2))
        slot = session._runner.slot(2)
        slot.graph, slot.captures = None, 3
        staging = session.staging(2)
        engine_of(session).fail["execute_async_v3"] = ""
        before = cuda.counts["synchronize"]
        with pytest.raises(EnvironmentFault, match="execute_async_v3 failed"):
            session.infer(staging)
        assert cuda.counts["synchronize"] == before + 1


class TestOutputs:
    def test_an_output_that_is_held_stays_what_it_is(self, session: TensorRtSession):
        held = [np.from_dlpack(session.infer_dlpack(images(2, seed))["logits"]) for seed in range(4)]
        session.infer(images(2, seed=9))
        for seed, logits in enumerate(held):
            assert_right(logits, images(2, seed))

    def test_one_not_taken_yet_stays_too(self, session: TensorRtSession):
        first, _ = session.infer_dlpack(images(2, seed=1)), session.infer_dlpack(images(2, seed=2))
        assert_right(np.from_dlpack(first["logits"]), images(2, seed=1))

    def test_a_stream_that_still_reads_comes_first(self, session: TensorRtSession, cuda: HostCuda):
        """The consumer enqueues its reading and lets go of the output, as torch code does."""
        stream, target = cuda.create_stream(), PinnedBuffer(cuda, 2 * tiny_bundle.CLASSES * 4)
        logits = session.infer_dlpack(images(2, seed=1))["logits"]
        size, address = target.bytes.nbytes, logits.address
        cuda.copy_out(target.bytes[:size], address, stream)
        del logits
        again = session.infer_dlpack(images(2, seed=2))["logits"]
        assert again.address == address  # it is the same memory, lent again
        cuda.synchronize(stream)
        assert_right(target.view((2, tiny_bundle.CLASSES), np.dtype("float32")), images(2, seed=1))

    @pytest.mark.parametrize("closes_first", [True, False])
    def test_memory_is_not_freed_while_a_stream_still_reads(
        self, shared_bundle: Bundle, cuda: HostCuda, closes_first: bool
    ):
        stream, target = cuda.create_stream(), PinnedBuffer(cuda, 2 * tiny_bundle.CLASSES * 4)
        session = open_double(shared_bundle, cuda)
        logits = session.infer_dlpack(images(2))["logits"]
        cuda.copy_out(target.bytes, logits.address, stream)
        if closes_first:
            session.close()
        del logits
        session.close()
        del session
        assert cuda.held == 1  # the target
        assert_right(target.view((2, tiny_bundle.CLASSES), np.dtype("float32")), images(2))

    def test_memory_that_comes_back_is_used_again(self, session: TensorRtSession, cuda: HostCuda):
        for seed in range(3):
            outputs = session.infer_dlpack(images(2, seed))
        before = cuda.counts.copy()
        for seed in range(5):
            outputs = session.infer_dlpack(images(2, seed))
        assert (cuda.counts - before)["allocate"] == 0
        del outputs

    def test_of_memory_that_comes_back_two_are_kept(self, cuda: HostCuda):
        pool = BufferPool(cuda, 100)
        loans = [pool.lend() for _ in range(6)]
        assert cuda.held == 6
        loans.clear()
        loan = pool.lend()
        assert (cuda.held, loan.again) == (2, True)
        del pool
        assert cuda.held == 1
        del loan
        assert cuda.held == 0

    def test_a_failed_run_leaves_the_session_sound(self, session: TensorRtSession):
        session.infer(images(2))
        engine_of(session).fail["execute_async_v3"] = ""
        with pytest.raises(EnvironmentFault, match="execute_async_v3 failed"):
            session.infer_dlpack(images(16))
        engine_of(session).fail.clear()
        for logits in (session.infer(images(2))["logits"], session.infer_dlpack(images(2))["logits"]):
            assert_right(np.from_dlpack(logits), images(2))

    def test_a_copy_or_another_device_is_refused(self, session: TensorRtSession):
        logits = session.infer_dlpack(images(2))["logits"]
        for wish in ({"copy": True}, {"dl_device": (2, 0)}):
            with pytest.raises(BufferError, match="lent where it lies"):
                logits.__dlpack__(**wish)
        assert_right(np.from_dlpack(logits, copy=False), images(2))


class TestCallersOutputs:
    @pytest.mark.parametrize("count", [2, 5])
    def test_the_callers_own_tensor_is_filled(self, session: TensorRtSession, cuda: HostCuda, count: int):
        """Five images run as eight: what is behind the caller's five rows stays as it was."""
        room = PinnedBuffer(cuda, 8 * tiny_bundle.CLASSES * 4).view((8, tiny_bundle.CLASSES), np.dtype("float32"))
        room[...] = 7
        session.infer_dlpack(images(count))
        before = cuda.counts["allocate"]
        outputs = session.infer_dlpack(images(count, seed=3), outputs={"logits": room[:count]})
        assert outputs["logits"].base is room.base
        assert cuda.counts["allocate"] == before
        assert_right(room[:count], images(count, seed=3))
        np.testing.assert_array_equal(room[count:], 7)

    @pytest.mark.parametrize(
        ("outputs", "message"),
        [
            ({"logit": np.zeros((2, 10), np.float32)}, "unknown output of engine .* 'logit'; did you mean logits"),
            ({"logits": np.zeros((3, 10), np.float32)}, r"for 2 images on .*, found float32 \(3, 10\)"),
            ({"logits": np.zeros((2, 9), np.float32)}, r"found float32 \(2, 9\)"),
            ({"logits": np.zeros((2, 10))}, r"found float64 \(2, 10\)"),
            ({"logits": np.zeros((2, 20), np.float32)[:, ::2]}, "expected a contiguous tensor"),
        ],
    )
    def test_another_tensor_is_refused(self, session: TensorRtSession, outputs: dict[str, np.ndarray], message: str):
        with pytest.raises(UsageError, match=message):
            session.infer_dlpack(images(2), outputs=outputs)


class TestCallersStream:
    @pytest.mark.parametrize("seed", [None, 0, 1, 2])
    def test_outputs_are_complete_behind_it_and_nothing_is_waited_for(
        self, session: TensorRtSession, cuda: HostCuda, seed: int | None
    ):
        mine, batches = cuda.create_stream(), [images(5, seed=number) for number in range(4)]
        targets = [np.full((5, tiny_bundle.CLASSES), 7, np.float32) for _ in batches]
        session.infer(images(5))
        cuda.chance = None if seed is None else random.Random(seed)
        before = cuda.counts.copy()
        for batch, target in zip(batches, targets, strict=True):
            session.infer_dlpack(batch, outputs={"logits": target}, stream=mine)
        assert not (cuda.counts - before).keys() & {"synchronize", "synchronize_device", "finish", "allocate"}
        if seed is None:
            np.testing.assert_array_equal(targets[0], 7)  # the double is lazy
        cuda.synchronize(mine)
        for batch, target in zip(batches, targets, strict=True):
            assert_right(target, batch)
        assert_right(session.infer(images(3))["logits"], images(3))

    def test_it_needs_all_outputs(self, session: TensorRtSession, cuda: HostCuda):
        with pytest.raises(UsageError, match="with a stream of the caller's expected tensors for logits, found none"):
            session.infer_dlpack(images(2), stream=cuda.create_stream())


class TestInputs:
    @pytest.mark.parametrize("offset", [0, 4, 128])
    def test_any_address_will_do(self, session: TensorRtSession, cuda: HostCuda, offset: int):
        """The double refuses addresses that are no multiple of 256, as TensorRT's header does."""
        room, batch = PinnedBuffer(cuda, images(2).nbytes + offset), images(2)
        lent = room.bytes[offset:].view(np.float32).reshape(batch.shape)
        lent[...] = batch
        before = cuda.counts["copy_on_device"]
        assert_right(np.from_dlpack(session.infer_dlpack(lent)["logits"]), batch)
        assert cuda.counts["copy_on_device"] - before == 2  # the batch and the logits

    def test_nothing_is_read_behind_a_small_batch(self, session: TensorRtSession, cuda: HostCuda):
        """Five images run at the size of eight; the tensor of the caller ends after five."""
        room, batch = PinnedBuffer(cuda, images(5).nbytes), images(5)
        lent = room.view(batch.shape, batch.dtype)
        lent[...] = batch
        outputs = session.infer_dlpack(lent)
        assert outputs["logits"].shape == (5, tiny_bundle.CLASSES)
        assert_right(np.from_dlpack(outputs["logits"]), batch)

    def test_what_its_package_does_not_lend_is_one_sentence(self, session: TensorRtSession):
        batch = images(2)
        batch.flags.writeable = False
        with pytest.raises(UsageError, match=r"the tensor's package does not lend it: .*readonly"):
            session.infer_dlpack(batch)

    def test_host_memory_is_refused_where_a_gpu_computes(self, session: TensorRtSession, cuda: HostCuda):
        """numpy knows no streams: it must not be asked to wait for one."""
        session._host_only, cuda.dlpack_device = False, (2, 0)
        with pytest.raises(UsageError, match=r"on DLPack device \(2, 0\), found float32 \(2, 3, 16, 16\) on \(1, 0\)"):
            session.infer_dlpack(images(2))
