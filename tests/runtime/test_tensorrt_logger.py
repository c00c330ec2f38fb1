"""What TensorRT logged is told of the call that logged it: not of a later one, nor of another thread's."""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from engine_double import LibraryDouble, engine_of, open_double
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendRefused, BundleError, EnvironmentFault
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.backends.tensorrt_library import deserialize
from resnetrt.runtime.backends.tensorrt_logger import logger_of, make

RECORD = EngineRecord("e", "tensorrt", "fp32", "sm86", variant="fp32")


class Library(LibraryDouble):
    """TensorRT's surface; its runtime loads nothing, and logs what `says` holds."""

    says = starts_badly = ""

    def Runtime(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        if self.starts_badly:
            logger.log(1, self.starts_badly)

        def load(_: bytes) -> None:
            if self.says:
                logger.log(1, self.says)

        return type("Runtime", (), {"deserialize_cuda_engine": staticmethod(load)})


@pytest.fixture
def trt() -> Library:
    return Library("tensorrt")


def open_session(trt: Library, bundle: Bundle) -> TensorRtSession:
    session = open_double(bundle, HostCuda(), trt=trt)
    engine_of(session).logger = logger_of(trt)
    return session


def fail_with(session: TensorRtSession, call: str, text: str) -> str:
    """The error of a batch of two if TensorRT's `call` fails and logs `text`."""
    engine_of(session).fail = {call: text}
    with pytest.raises(EnvironmentFault) as caught:
        session._runner.slot(2)
    return str(caught.value).rpartition(": ")[2]


class TestSessions:
    def test_the_failing_call_is_explained_by_its_own_error(self, trt: Library, shared_bundle: Bundle):
        with open_session(trt, shared_bundle) as first, open_session(trt, shared_bundle) as second:
            assert fail_with(first, "set_input_shape", "a fault of yesterday") == "a fault of yesterday"
            assert fail_with(second, "execute_async_v3", "out of memory") == "out of memory"
            assert fail_with(second, "execute_async_v3", "") == "it does not say why"

    def test_an_error_that_was_lived_with_explains_nothing(self, trt: Library, shared_bundle: Bundle):
        with open_session(trt, shared_bundle) as session:
            logger_of(trt).log(1, "not harmful")
            assert fail_with(session, "set_tensor_address", "") == "it does not say why"

    def test_source_positions_and_prefixes_are_left_out(self, trt: Library, shared_bundle: Bundle):
        text = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (In f at /_src/x.cpp:1 (cudaError 35))\n"
        with open_session(trt, shared_bundle) as session:
            assert fail_with(session, "execute_async_v3", text) == "Cuda Runtime (cudaError 35))"

    def test_a_warning_is_passed_on_once(self, trt: Library, shared_bundle: Bundle, caplog: pytest.LogCaptureFixture):
        """TensorRT says it again at each run."""
        with open_session(trt, shared_bundle) as session:
            engine_of(session).warn = "Using default stream in enqueueV3() may lead to performance issues"
            session._runner.slot(2)
            session._runner.slot(3)
        assert [item.getMessage() for item in caplog.records] == [
            "engine tensorrt-fp32-sm86: TensorRT warns: Using default stream in enqueueV3() may lead to performance "
            "issues"
        ]


class TestLoading:
    def test_an_engine_that_does_not_load(self, trt: Library):
        for says, reason in (("old version", "old version"), ("bad magic", "bad magic"), ("", "it does not say why")):
            trt.says = says
            with pytest.raises(BundleError, match=f"TensorRT can't load it: {reason}; compile it again"):
                deserialize(trt, b"", "engine e", RECORD)


class TestNullObjects:
    """What TensorRT answers with where it can't start."""

    def test_a_builder_that_is_null_shows_the_logged_reason(self, trt: Library):
        class Builder:
            def __init__(self, logger: Any) -> None:
                logger.log(1, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        with pytest.raises(
            EnvironmentFault, match=r"^TensorRT's Builder can't start: CUDA initialization .* error: 35$"
        ):
            make(Builder, logger_of(trt))

    def test_a_runtime_around_null_is_never_used(self, trt: Library):
        """As tensorrt_lean gives it: the next call would end the process."""
        trt.starts_badly = "CUDA initialization failure with error: 35"
        with pytest.raises(EnvironmentFault, match="TensorRT's Runtime can't start: CUDA initialization failure"):
            deserialize(trt, b"", "engine e", RECORD)

    def test_one_that_says_nothing(self, trt: Library):
        def silent(_: Any) -> None:
            raise TypeError("pybind11::init(): factory function returned nullptr")

        with pytest.raises(
            EnvironmentFault, match=r"can't start: pybind11::init\(\): factory function returned nullptr"
        ):
            make(silent, logger_of(trt))


class TestThreads:
    def test_another_threads_error_is_its_own(self, trt: Library):
        logger, inside, logged = logger_of(trt), threading.Event(), threading.Event()

        def other() -> list[tuple[int, str]]:
            inside.wait(10)
            logger.log(1, "outside of any call")
            with logger.recorded() as lines:
                logger.log(1, "of the other thread")
            logged.set()
            return lines

        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(other)
            with logger.recorded() as lines:
                inside.set()
                logged.wait(10)
                logger.log(1, "of this thread")
            assert lines == [(1, "of this thread")]
            assert job.result() == [(1, "of the other thread")]

    def test_a_line_of_a_thread_of_tensorrts_own_is_not_lost(self, trt: Library):
        """As TensorRT's worker threads do, a thread that Python did not start calls the logger."""
        logger, done = logger_of(trt), threading.Event()

        def work(_: Any) -> None:
            logger.log(1, "of a worker")
            done.set()

        libc = ctypes.CDLL(None)
        start = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(work)
        with logger.recorded() as lines:
            assert libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, start, None) == 0
            assert done.wait(10)
        assert lines == [(1, "of a worker")]

    def test_blocks_may_be_nested(self, trt: Library):
        logger = logger_of(trt)
        with logger.recorded() as outer:
            logger.log(3, "before")
            with logger.recorded() as inner:
                logger.log(1, "within")
            logger.log(3, "after")
        assert (inner, [text for _, text in outer]) == ([(1, "within")], ["before", "within", "after"])
        logger.log(1, "nobody listens")
        assert len(outer) == 3


def test_two_real_builds_side_by_side_keep_their_errors_apart(tmp_path: Path):
    """TensorRT-RTX parses a sound file in one thread while another is refused its own."""
    trt = pytest.importorskip("tensorrt_rtx")
    from resnetrt.export.compilers.tensorrt.parse import parse

    sound, broken = tmp_path / "sound.onnx", tmp_path / "broken.onnx"
    tiny_bundle.write_onnx(sound)
    broken.write_bytes(b"no ONNX file")

    def refused() -> str:
        with pytest.raises(BackendRefused) as caught:
            parse(trt, broken)
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        rounds = [(pool.submit(refused), pool.submit(parse, trt, sound)) for _ in range(20)]
        for failure, success in rounds:
            assert "broken.onnx: parsing failed" in failure.result()
            assert success.result().network.num_layers > 0  # raises if it heard of the other's errors
