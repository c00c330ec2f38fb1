"""The TensorRT session over host memory, with an engine double in the place of the engine; no GPU needed."""

import gc
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import engine_double
import numpy as np
import pytest
import tiny_bundle
from engine_double import engine_of, open_double
from gated_session import under_way
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.errors import DeviceLost, EnvironmentFault, UsageError
from resnetrt.golden import Golden
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.backends.tensorrt_logger import logger_of
from resnetrt.runtime.cuda import DeviceBuffer, PinnedBuffer
from resnetrt.runtime.selftest import selftest

Make = Callable[..., TensorRtSession]


def images(count: int, seed: int = 5) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, seed))


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda()


@pytest.fixture
def make(cuda: HostCuda, shared_bundle: Bundle) -> Make:
    def build(variant: str = "fp32", profiles: tuple[tuple[int, int, int], ...] = ((1, 8, 16),)) -> TensorRtSession:
        session = open_double(shared_bundle, cuda, variant, profiles)
        session.preprocessing = tiny_bundle.PREPROCESSING
        return session

    return build


@pytest.fixture
def session(make: Make) -> Iterator[TensorRtSession]:
    with make() as made:
        yield made


def test_a_second_thread_is_refused_at_every_entrance(session: TensorRtSession):
    calls: list[Callable[[], object]] = [
        lambda: session.infer(images(2)),
        lambda: session.profile(images(2)),
        lambda: session.staging(2),
        lambda: session.infer_dlpack(images(2)),
        lambda: session.execution_ms(2, runs=1),
    ]
    with under_way(session, images(2)) as answer:
        for call in calls:
            with pytest.raises(UsageError, match="load a session for each thread"):
                call()
    np.testing.assert_allclose(answer.result()["logits"], tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)


class TestInfer:
    @pytest.mark.parametrize("count", [1, 3, 8, 16])
    def test_equals_the_reference(self, session: TensorRtSession, count: int):
        logits = session.infer(images(count))["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(count)), rtol=0, atol=1e-4)

    def test_batch_sizes_may_alternate(self, session: TensorRtSession):
        for count, seed in ((1, 5), (8, 6), (1, 7), (3, 8), (8, 9), (1, 5)):
            logits = session.infer(images(count, seed))["logits"]
            np.testing.assert_allclose(logits, tiny_bundle.reference(images(count, seed)), rtol=0, atol=1e-4)

    def test_outputs_belong_to_the_caller(self, session: TensorRtSession):
        first = session.infer(images(2))["logits"]
        before = first.copy()
        session.infer(images(2, seed=6))
        np.testing.assert_array_equal(first, before)

    def test_frames_and_strided_batches(self, make: Make):
        with make("fp32.frames") as session:
            frames = tiny_bundle.frames(3)
            expected = tiny_bundle.reference(images(3, seed=0))
            np.testing.assert_allclose(session.infer(frames)["logits"], expected, rtol=0, atol=1e-4)
            twisted = np.asfortranarray(frames)
            np.testing.assert_allclose(session.infer(twisted)["logits"], expected, rtol=0, atol=1e-4)

    def test_passes_the_golden_selftest(self, session: TensorRtSession, shared_bundle: Bundle):
        assert selftest(session, Golden.of(shared_bundle), "logits").n == 20

    @pytest.mark.parametrize("profiles", [((1, 1, 1),), ((2, 3, 4),), ((1, 1, 1), (4, 4, 4)), ((1, 2, 3),)])
    def test_the_selftest_keeps_within_the_profiles(self, make: Make, shared_bundle: Bundle, profiles: tuple):
        with make(profiles=profiles) as session:
            assert selftest(session, Golden.of(shared_bundle), "logits").n == 20

    @pytest.mark.parametrize("count", [17, 100])
    def test_a_batch_over_the_profile_is_one_sentence(self, session: TensorRtSession, count: int):
        with pytest.raises(UsageError, match=rf"engine tensorrt-fp32-sm86: expected 1 to 16 images .* found {count}"):
            session.infer(images(count))

    def test_the_profile_tuned_nearest_is_taken(self, make: Make):
        with make(profiles=((1, 1, 4), (2, 8, 16))) as session:
            for count in (1, 3, 16):
                session.infer(images(count))
            assert [context.profile for context in engine_of(session).contexts] == [0, 0, 1]

    def test_a_closed_session_refuses(self, make: Make):
        session = make()
        session.close()
        for use in (
            lambda: session.infer(images(1)),
            lambda: session.staging(1),
            lambda: session.infer_dlpack(images(1)),
        ):
            with pytest.raises(UsageError, match="the session is closed"):
                use()


class TestHotPath:
    @pytest.mark.parametrize("count", [1, 8])
    def test_one_launch_and_no_allocation(self, session: TensorRtSession, cuda: HostCuda, count: int):
        session.infer(images(count))
        before = cuda.counts.copy()
        for seed in range(5):
            session.infer(images(count, seed))
        assert cuda.counts - before == {"copy_in": 5, "launch": 5, "copy_out": 5, "synchronize": 5}
        assert session.graphs == 1

    def test_without_graphs_one_copy_in_and_one_out(self, make: Make, cuda: HostCuda):
        cuda.supports_graphs = False
        with make() as session:
            session.infer(images(4))
            before = cuda.counts.copy()
            session.infer(images(4, seed=6))
            assert cuda.counts - before == {"copy_in": 1, "copy_out": 1, "synchronize": 1}
            assert session.graphs == 0

    def test_a_graph_is_captured_after_a_warm_up(self, session: TensorRtSession, cuda: HostCuda):
        session.infer(images(2))
        (context,) = engine_of(session).contexts
        assert cuda.counts["capture"] == 1
        assert context.runs == 2  # warm-up, then the graph

    def test_random_batches_need_few_contexts_and_captures(self, make: Make, cuda: HostCuda):
        """With a context for each size, of which eight were kept, these 200 batches cost 151 contexts and captures."""
        counts = np.random.default_rng(0).integers(1, 33, 200)
        with make(profiles=((1, 8, 32),)) as session:
            for seed, count in enumerate(map(int, counts)):
                batch = images(count, seed) if seed % 20 == 0 else images(count)
                logits = session.infer(batch)["logits"]
                assert logits.shape == (count, tiny_bundle.CLASSES)
                if seed % 20 == 0:
                    np.testing.assert_allclose(logits, tiny_bundle.reference(batch), rtol=0, atol=1e-4)
            assert (len(engine_of(session).contexts), cuda.counts["capture"], session.graphs) == (6, 6, 6)

    def test_what_fills_a_batch_up_is_nobodys(self, session: TensorRtSession):
        """Five images run at the size of eight, with three of the batch before behind them."""
        before = images(8, seed=9)
        before[5:] = np.nan
        session.infer(before)
        logits = session.infer(images(5))["logits"]
        assert logits.shape == (5, tiny_bundle.CLASSES)
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(5)), rtol=0, atol=1e-4)
        outputs = session.infer_dlpack(images(5, seed=6))
        np.testing.assert_allclose(
            np.from_dlpack(outputs["logits"]), tiny_bundle.reference(images(5, seed=6)), rtol=0, atol=1e-4
        )

    def test_contexts_share_one_block_of_memory(self, session: TensorRtSession, cuda: HostCuda):
        session.infer(images(1))
        held = cuda.held
        for count in (2, 3, 8, 16, 9):
            session.infer(images(count))
        session.profile(images(4), runs=1)
        contexts = engine_of(session).contexts
        assert len(contexts) == 6  # 1, 2, 4, 8, 16 and one to profile
        assert len({context.memory for context in contexts}) == 1
        assert cuda.held == held

    def test_memory_that_tensorrt_does_not_take_is_an_error(
        self, session: TensorRtSession, monkeypatch: pytest.MonkeyPatch
    ):
        """The setter returns nothing and only logs."""
        monkeypatch.setattr("resnetrt.runtime.backends.tensorrt_contexts.DeviceBuffer", SmallBuffer)
        engine_of(session).logger = logger_of(session._trt)
        with pytest.raises(EnvironmentFault, match=r"set_device_memory failed: setDeviceMemoryV2: 8 bytes .* too few"):
            session.infer(images(1))

    def test_the_staging_array_is_not_copied(self, session: TensorRtSession, monkeypatch: pytest.MonkeyPatch):
        staging = session.staging(4)
        staging[:] = images(4)
        monkeypatch.setattr(np, "copyto", None)  # any host copy would fail
        logits = session.infer(staging)["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(4)), rtol=0, atol=1e-4)

    def test_a_failed_capture_is_logged_and_tried_again(
        self, make: Make, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        """Another library may have disturbed it; two more attempts, at the next batches of that size."""
        real, failures = cuda.capture, iter([True, True, False, True])

        def fail_at_first(stream: int, work: Callable[[], object]) -> object:
            if next(failures):
                raise EnvironmentFault("CUDA: not in this stream")
            return real(stream, work)

        monkeypatch.setattr(cuda, "capture", fail_at_first)
        with make() as session:
            for graphs in (0, 0, 1, 1):
                logits = session.infer(images(2))["logits"]
                np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)
                assert session.graphs == graphs
        told = "engine tensorrt-fp32-sm86: no CUDA graph for 2 images, it is tried again: CUDA: not in this stream"
        assert [record.getMessage() for record in caplog.records] == [told, told]

    def test_the_third_failure_is_the_last(
        self, make: Make, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        monkeypatch.setattr(cuda, "capture", Mock(side_effect=EnvironmentFault("CUDA: no")))
        with make() as session:
            for _ in range(5):
                logits = session.infer(images(2))["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)
        texts = [record.getMessage() for record in caplog.records]
        assert (len(texts), "every run is enqueued layer by layer: CUDA: no" in texts[-1]) == (3, True)

    def test_garbage_is_not_collected_during_a_capture(
        self, session: TensorRtSession, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch
    ):
        """Device memory that is found then would be freed, which ends the capture."""
        real, before = cuda.capture, gc.get_threshold()

        def littered(stream: int, work: Callable[[], object]) -> object:
            held = [ring_of_memory(cuda)]

            def drop_and_work() -> None:
                held.clear()
                work()
                _ = [[] for _ in range(100)]

            return real(stream, drop_and_work)

        monkeypatch.setattr(cuda, "capture", littered)
        gc.set_threshold(1)  # a collection at nearly every allocation
        try:
            session.infer(images(2))
        finally:
            gc.set_threshold(*before)
        assert session.graphs == 1
        assert gc.isenabled()

    def test_a_context_that_can_not_be_captured_runs_without(self, make: Make, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(engine_double.ContextDouble, "is_stream_capturable", lambda *_: False, raising=False)
        with make() as session:
            session.infer(images(2))
            assert session.graphs == 0

    def test_closing_frees_everything(self, make: Make, cuda: HostCuda):
        session = make()
        session.infer(images(3))
        assert cuda.held == 5  # two on each side, and the block of the contexts
        session.close()
        del session
        assert cuda.held == 0

    def test_events_take_the_time(self, session: TensorRtSession):
        times = session.execution_ms(8, runs=5)
        assert len(times) == 5
        assert all(ms > 0 for ms in times)

    def test_layers_are_profiled_in_a_context_apart(self, session: TensorRtSession):
        (layer,) = session.profile(images(2), runs=3)
        assert (layer.name, layer.ms, layer.precision) == ("everything", 0.5, "unknown")
        assert [context.profiler is not None for context in engine_of(session).contexts] == [False, True]


class TestDlpack:
    def test_torch_in_and_out_without_a_host_copy(self, session: TensorRtSession, cuda: HostCuda):
        torch = pytest.importorskip("torch")
        room = PinnedBuffer(cuda, 3 * 3 * 16 * 16 * 4)  # at a multiple of 256, as CUDA tensors are
        batch = torch.from_numpy(room.view((3, 3, 16, 16), np.dtype("float32")))
        batch[:] = torch.from_numpy(images(3))
        first = session.infer_dlpack(batch)
        before = cuda.counts.copy()
        outputs = session.infer_dlpack(batch)
        assert cuda.counts - before == {
            "copy_on_device": 2,
            "launch": 1,
            "allocate": 1,  # `first` is still held
            "synchronize": 1,
        }
        del first
        logits = torch.from_dlpack(outputs["logits"])
        assert logits.data_ptr() == outputs["logits"].address
        np.testing.assert_allclose(logits.numpy(), tiny_bundle.reference(images(3)), rtol=0, atol=1e-4)

    def test_numpy_in_and_out(self, session: TensorRtSession):
        outputs = session.infer_dlpack(images(2))
        logits = np.from_dlpack(outputs["logits"])
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)

    def test_the_next_batch_goes_through_the_own_buffers_again(self, session: TensorRtSession):
        session.infer(images(2))
        session.infer_dlpack(images(2, seed=6))
        logits = session.infer(images(2))["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)

    def test_an_output_outlives_the_session(self, make: Make, cuda: HostCuda):
        session = make()
        logits = np.from_dlpack(session.infer_dlpack(images(2))["logits"])
        session.close()
        del session
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)
        assert cuda.held == 1
        del logits
        assert cuda.held == 0

    def test_a_capsule_that_nobody_takes_is_freed(self, make: Make, cuda: HostCuda):
        session = make()
        capsule = session.infer_dlpack(images(2))["logits"].__dlpack__()
        session.close()
        del session
        assert cuda.held == 1
        del capsule
        assert cuda.held == 0

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            (np.zeros((2, 3, 16, 16)), r"found float64 \(2, 3, 16, 16\)"),
            (np.zeros((2, 3, 16, 17), np.float32), r"found float32 \(2, 3, 16, 17\)"),
            (np.zeros((0, 3, 16, 16), np.float32), r"found float32 \(0, 3, 16, 16\)"),
            (np.zeros((2, 16, 16, 3), np.float32).transpose(0, 3, 1, 2), "expected a contiguous tensor"),
            ([1.0], "expected a tensor with __dlpack__, found builtins.list"),
        ],
    )
    def test_another_tensor_is_refused(self, session: TensorRtSession, batch: object, message: str):
        with pytest.raises(UsageError, match=message):
            session.infer_dlpack(batch)


@pytest.mark.parametrize(
    "call",
    [
        "create_execution_context",
        "set_optimization_profile_async",
        "set_input_shape",
        "set_tensor_address",
        "infer_shapes",
        "execute_async_v3",
    ],
)
def test_a_call_that_only_returns_its_failure_is_an_error(make: Make, call: str):
    with make(profiles=((1, 1, 1), (2, 4, 8))) as session:
        engine_of(session).fail[call] = ""
        with pytest.raises(EnvironmentFault, match=f"engine tensorrt-fp32-sm86: TensorRT's {call} failed"):
            session.infer(images(4))


class TestLostDevice:
    def test_the_error_says_so_and_closing_frees_what_it_can(self, make: Make, cuda: HostCuda):
        session = make()
        session.infer(images(2))
        output = session.infer_dlpack(images(2))["logits"]
        assert not session.lost
        cuda.lose()
        for call in (session.infer, session.infer_dlpack, session.infer):
            with pytest.raises(DeviceLost, match="illegal memory access"):
                call(images(2))
        assert "illegal memory access" in session.lost
        session.close()
        del session, output
        assert cuda.held == 0

    def test_tensorrts_failure_is_explained_by_it(self, make: Make, cuda: HostCuda):
        """Else it reads like a fault of the engine, and a fallback would be tried."""
        with make() as session:
            session.infer(images(2))
            cuda.supports_graphs = False
            engine_of(session).fail["create_execution_context"] = ""
            cuda.lose()
            with pytest.raises(DeviceLost, match="illegal memory access"):
                session.infer(images(3))


class SmallBuffer:
    """In the place of a `DeviceBuffer`, whatever was asked for."""

    def __init__(self, cuda: HostCuda, _: int) -> None:
        self.address, self.size_bytes = cuda.allocate(8), 8


def ring_of_memory(cuda: HostCuda) -> list[object]:
    """Device memory that only a collection of garbage frees."""
    ring: list[object] = [DeviceBuffer(cuda, 8)]
    ring.append(ring)
    return ring


class TestDoubles:
    """The guards of these tests were seen failing."""

    def test_a_collection_during_a_capture_ends_it(self, session: TensorRtSession, cuda: HostCuda):
        session.infer(images(2))
        context = engine_of(session).contexts[0]

        held = [ring_of_memory(cuda)]

        def work() -> None:
            context.execute_async_v3(session._runner.stream)
            held.clear()
            gc.collect()

        with cuda.current(), pytest.raises(EnvironmentFault, match="memory was freed while a graph was captured"):
            cuda.capture(session._runner.stream, work)

    def test_a_context_allocates_at_its_first_run(self, session: TensorRtSession, cuda: HostCuda):
        runner = session._runner
        with cuda.current():
            context = runner._context(2, 0)
        with cuda.current(), pytest.raises(EnvironmentFault, match="a capture does not permit"):
            cuda.capture(runner.stream, lambda: context.execute_async_v3(runner.stream))

    def test_a_context_without_memory_does_not_run(self, session: TensorRtSession, cuda: HostCuda):
        with cuda.current():
            context = engine_of(session).create_execution_context(engine_double.Strategy.USER_MANAGED)
            assert not context.execute_async_v3(session._runner.stream)

    def test_memory_must_be_there_to_its_end(self, cuda: HostCuda):
        address = cuda.allocate(100)
        assert cuda.require_room(address + 50, 50) == address + 50
        with pytest.raises(AssertionError, match="51 bytes"):
            cuda.require_room(address + 50, 51)

    def test_another_library_needs_the_device(self, session: TensorRtSession):
        with pytest.raises(AssertionError, match="the device is not the current one of this thread"):
            engine_of(session).create_execution_context()


def test_int8_variants_run_too(make: Make):
    with make("int8.cpu") as session:
        logits = session.infer(images(8))["logits"]
    assert np.abs(logits - tiny_bundle.reference(images(8))).max() < 1


def test_the_double_is_lazy(cuda: HostCuda):
    """The guard of these tests: what is read before synchronization is not there yet."""
    stream = cuda.create_stream()
    target, source = cuda.allocate_host(4), np.arange(4, dtype=np.uint8)
    device = cuda.allocate(4)
    cuda.copy_in(device, source, stream)
    cuda.copy_out(target, device, stream)
    assert target.tolist() == [0xA5] * 4
    cuda.synchronize(stream)
    assert target.tolist() == [0, 1, 2, 3]
