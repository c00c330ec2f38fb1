"""ONNX Runtime's GPU providers: fixed memory, CUDA graphs, a GPU that dies. None ran; real binding, on the CPU."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime_gpu_double as double
import pytest
import tiny_bundle
from host_cuda import HostCuda
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, BundleError, DeviceLost, EnvironmentFault
from resnetrt.runtime.backends import onnxruntime as backend
from resnetrt.runtime.backends import onnxruntime_faults
from resnetrt.runtime.backends.onnxruntime import OnnxRuntimeSession
from resnetrt.runtime.backends.onnxruntime_providers import CUDA
from resnetrt.runtime.stream import Batcher, BatchOptions

LOST = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Status Message: "
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=box ; file=/onnxruntime_src/x.cc ; "
    "line=121 ; expr=cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)); "
)
Make = Callable[..., OnnxRuntimeSession]


@pytest.fixture
def make(shared_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[OnnxRuntimeSession] = []

    def open_session(target: str = "cuda", variant: str = "fp32", refuse_graphs: bool = False) -> OnnxRuntimeSession:
        double.install(monkeypatch, refuse_graphs)
        about = EngineRecord(f"onnxruntime-fp32-{target}", "onnxruntime", "fp32", target, variant=variant)
        made.append(backend.load(shared_bundle.variant_file(variant), about, 1))
        return made[-1]

    yield open_session
    for session in made:
        session.close()


def native(session: OnnxRuntimeSession) -> double.GpuSessionDouble:
    assert isinstance(session._native, double.GpuSessionDouble)
    return session._native


def images(count: int, seed: int = 0) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, seed))


def require_right(session: OnnxRuntimeSession, batch: np.ndarray) -> np.ndarray:
    logits = session.infer(batch)["logits"]
    np.testing.assert_allclose(logits, tiny_bundle.reference(batch), rtol=0, atol=1e-4)
    return logits


class TestBound:
    def test_every_size_is_right_and_usual_ones_have_a_graph(self, make: Make):
        session = make()
        for seed, count in enumerate([1, 4, 3, 1, 50, 4, 32, 3, 64, 1, 8, 2, 16]):
            require_right(session, images(count, seed))
        assert native(session).enabled
        assert sorted(native(session).graphs) == [1, 2, 4, 8, 16, 32]

    def test_outputs_are_the_callers(self, make: Make):
        session = make()
        first = session.infer(images(4, 1))["logits"]
        kept = first.copy()
        session.infer(images(4, 2))
        np.testing.assert_array_equal(first, kept)
        first[:] = 0
        require_right(session, images(4, 2))

    def test_an_input_of_any_layout_is_taken(self, make: Make):
        session = make()
        require_right(session, np.asfortranarray(images(4)))
        require_right(session, images(8)[::2])

    def test_memory_is_bound(self, make: Make):
        session = make()
        for count in range(1, 60):
            session.infer(images(count))
        assert session._bound is not None
        sizes = list(session._bound._slots)
        assert sizes == [1, 2, 4, 8, 16, 32, *range(56, 60)]

    def test_an_engine_for_frames_is_bound_too(self, make: Make):
        session, frames = make(variant="fp32.frames"), tiny_bundle.frames(4)
        logits = session.infer(frames)["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(4)), rtol=0, atol=1e-4)
        assert list(native(session).graphs) == [4]

    def test_the_tensorrt_provider_is_bound_without_graphs(self, make: Make):
        session = make("trt-ep")
        require_right(session, images(4))
        assert (native(session).runs, native(session).enabled) == (1, False)
        assert "enable_cuda_graph" not in native(session).providers[CUDA]

    def test_a_model_that_can_have_no_graph_runs_without(self, make: Make, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.INFO, "resnetrt.runtime")
        session = make(refuse_graphs=True)
        require_right(session, images(4))
        assert "no CUDA graphs: onnxruntime" in caplog.text
        assert "not been partitioned to the CUDAExecutionProvider" in caplog.text
        assert not native(session).enabled

    def test_a_graph_that_fails_is_lived_with(self, make: Make, caplog: pytest.LogCaptureFixture):
        session = make()
        native(session).capture_fails = Fail(
            "CUDA failure 900: operation not permitted when stream is capturing ; GPU=0"
        )
        for seed in range(2):
            require_right(session, images(4, seed))
        assert native(session).runs == 3
        assert caplog.text.count("no CUDA graph for 4 images: CUDA failure 900") == 1

    def test_a_batcher_warms_up_the_graphs_of_the_thread_that_answers(self, make: Make):
        """The provider keeps graphs for each thread: those captured in another one would be captured again."""
        session = make()
        with Batcher([session], BatchOptions(max_batch_size=4)) as batcher:
            batcher.warm_up()
            (engine,) = batcher._threads
            assert engine.ident is not None
            assert native(session).graphs == {}
            assert sorted(native(session).by_thread[engine.ident]) == [1, 2, 4]
            answer = batcher.stream().infer(images(4))
            np.testing.assert_allclose(answer["logits"], tiny_bundle.reference(images(4)), rtol=0, atol=1e-4)
            assert len(native(session).by_thread) == 2, "its maker's, which has none, and the engine's"

    def test_the_double_refuses_a_graph_in_other_memory(self, make: Make):
        """The guard of these tests."""
        session = make()
        session.infer(images(4))
        assert session._bound is not None
        session._bound._slots.clear()
        with pytest.raises(double.RuleBroken, match="graph 4 reads and writes the memory that it was captured for"):
            session.infer(images(4))
        with pytest.raises(double.RuleBroken, match="a run needs fixed memory"):
            native(session).run(["logits"], {"input": images(4)})


class TestLostDevice:
    def test_cudas_error_in_its_text_is_a_lost_device(self, make: Make):
        session = make()
        require_right(session, images(2))
        assert not session.lost
        native(session).fails = Fail(LOST)
        with pytest.raises(
            DeviceLost,
            match=r"^engine onnxruntime-fp32-cuda: ONNX Runtime: CUDA failure 700: an illegal memory access was "
            r"encountered; this process can't use the GPU any more: end it and start it again$",
        ):
            session.infer(images(2))
        assert "CUDA failure 700" in session.lost

    def test_its_destructors_never_run(self, make: Make):
        """They end the process with SIGABRT."""
        lost, sound = make(), make()
        natives = [weakref.ref(native(session)) for session in (lost, sound)]
        native(lost).fails = Fail(LOST)
        with pytest.raises(DeviceLost):
            lost.infer(images(2))
        for session in (lost, sound):
            session.close()
        gc.collect()
        assert [reference() is not None for reference in natives] == [True, False]

    @pytest.mark.parametrize(
        "text",
        ["TensorRT EP execution context enqueue failed.", "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0"],
    )
    def test_cuda_is_asked_where_the_text_does_not_tell(self, make: Make, monkeypatch: pytest.MonkeyPatch, text: str):
        cuda, session = HostCuda(), make("trt-ep")
        monkeypatch.setattr(onnxruntime_faults, "open_cuda", lambda *_: cuda)
        native(session).fails = Fail(text)
        with pytest.raises(EnvironmentFault, match=text[:20]):
            session.infer(images(2))
        assert not session.lost
        cuda.lose()
        with pytest.raises(DeviceLost, match=r"^engine onnxruntime-fp32-trt-ep: CUDA: host memory: an illegal memory"):
            session.infer(images(2))
        assert session.lost

    def test_without_a_package_to_ask_by_the_text_stands(self, make: Make):
        session = make()
        native(session).fails = Fail(
            "BFCArena::AllocateRawInternal Failed to allocate memory for buffer of size 9\nmore"
        )
        with pytest.raises(EnvironmentFault, match=r"ONNX Runtime: .*size 9 more$") as caught:
            session.infer(images(2))
        assert not isinstance(caught.value, BackendMissing | DeviceLost)
        assert not session.lost

    def test_one_that_is_lost_when_the_engine_is_loaded_is_no_damaged_bundle(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(*_: Any, **__: Any) -> None:
            raise Fail(LOST)

        make()
        monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
        monkeypatch.setattr(double, "install", lambda *_: [])
        with pytest.raises(DeviceLost, match="CUDA failure 700"):
            make()

    def test_any_other_error_at_the_load_is_the_bundles(self, make: Make, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: Any, **__: Any) -> None:
            raise Fail("Load model failed: Protobuf parsing failed.")

        make()
        monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
        monkeypatch.setattr(double, "install", lambda *_: [])
        with pytest.raises(BundleError, match=r"can't load fp32\.onnx: .*compile it again"):
            make()
