"""TensorRT-RTX compiles its kernels where an engine runs: before a graph is captured, and once for all processes."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from engine_double import (
    ContextDouble,
    LibraryDouble,
    RtxEngineDouble,
    RtxLibraryDouble,
    RuntimeCacheDouble,
    RuntimeConfigDouble,
    Strategy,
    engine_of,
    fake_tensorrt,
    open_double,
)
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.runtime.backends import tensorrt, tensorrt_library
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.backends.tensorrt_kernels import KernelFile
from resnetrt.runtime.cuda import Device

Open = Callable[[], TensorRtSession]


def images(count: int) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, 5))


def double_of(session: TensorRtSession) -> RtxEngineDouble:
    engine = engine_of(session)
    assert isinstance(engine, RtxEngineDouble)
    return engine


@pytest.fixture
def kept(tmp_path: Path) -> KernelFile:
    return KernelFile(tmp_path / "cache" / "engine.kernels")


@pytest.fixture
def start(shared_bundle: Bundle, kept: KernelFile) -> Open:
    """A session as of a new process."""
    return lambda: open_double(
        shared_bundle, HostCuda(), trt=RtxLibraryDouble("tensorrt_rtx"), kept=KernelFile(kept.path)
    )


class TestCapture:
    def test_kernels_are_there_before_the_capture(self, start: Open):
        with start() as session:
            logits = session.infer(images(3))["logits"]
            np.testing.assert_allclose(logits, tiny_bundle.reference(images(3)), rtol=0, atol=1e-4)
            (context,) = double_of(session).contexts
            config = context.config
            assert session.graphs == 1
            assert config is not None
            assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
            assert (config.cuda_graph_strategy.name, config.strategy) == ("DISABLED", Strategy.USER_MANAGED)

    def test_the_double_refuses_a_capture_of_what_is_still_compiled(self, start: Open):
        """The guard of the test above, seen failing."""
        with start() as session:
            session.infer(images(2))
            (context,) = double_of(session).contexts
            context.config = RuntimeConfigDouble()
            runner = session._runner
            with (
                runner._cuda.current(),
                pytest.raises(AssertionError, match="the graph keeps the kernels"),
            ):
                runner._cuda.capture(runner.stream, lambda: context.execute_async_v3(runner.stream))

    def test_a_context_that_can_not_be_captured_runs_without(self, start: Open, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(ContextDouble, "is_stream_capturable", lambda *_: False, raising=False)
        with start() as session:
            session.infer(images(2))
            assert session.graphs == 0

    def test_an_engine_that_streams_weights_allocates_for_itself(self, start: Open):
        with start() as session:
            double_of(session).streamable = 100
            logits = session.infer(images(2))["logits"]
            np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)
            assert double_of(session).contexts[0].memory == (0, 0)


class TestKernels:
    def test_the_next_process_compiles_nothing(self, start: Open):
        with start() as session:
            for count in (1, 8, 7, 16):
                session.infer(images(count))
            assert [shape[0] for shape in double_of(session).compiled] == [1, 8, 16]
        with start() as session:
            for count in (16, 1, 8):
                logits = session.infer(images(count))["logits"]
                np.testing.assert_allclose(logits, tiny_bundle.reference(images(count)), rtol=0, atol=1e-4)
            assert double_of(session).compiled == []

    def test_they_are_stored_at_once(self, start: Open, kept: KernelFile):
        """A server may be killed: what it compiled is kept before its end."""
        session = start()
        session.infer(images(2))
        assert kept.path.read_bytes() == RuntimeCacheDouble.HEADER + b"2x3x16x16"
        assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]
        session.close()

    def test_the_file_is_replaced_and_never_written_into(self, start: Open, kept: KernelFile):
        """A process that reads meanwhile, and a power cut, see the old kernels or all of the new ones."""
        with start() as session:
            session.infer(images(2))
            before = kept.path.read_bytes()
            os.link(kept.path, kept.path.with_name("held"))
            session.infer(images(4))
        assert kept.path.read_bytes() != before
        assert kept.path.with_name("held").read_bytes() == before

    def test_those_that_nobody_used_for_long_are_deleted(self, start: Open, kept: KernelFile):
        kept.path.parent.mkdir()
        old = kept.path.with_name("old.kernels")
        old.write_bytes(b"of an older engine")
        os.utime(old, (0, 0))
        with start() as session:
            session.infer(images(2))
        assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]

    @pytest.mark.parametrize("content", [b"", b"RTX 1.6 on sm86:2x3x16x16", b"junk"])
    def test_those_of_another_version_or_gpu_are_compiled_anew(self, start: Open, kept: KernelFile, content: bytes):
        kept.path.parent.mkdir()
        kept.path.write_bytes(content)
        with start() as session:
            session.infer(images(2))
            assert len(double_of(session).compiled) == 1
        assert kept.path.read_bytes().startswith(RuntimeCacheDouble.HEADER)

    def test_a_folder_that_can_not_be_written_to_is_lived_with(
        self, start: Open, kept: KernelFile, caplog: pytest.LogCaptureFixture
    ):
        kept.path.parent.write_text("a file in the place of the folder")
        with start() as session:
            session.infer(images(2))
        assert "kernels of TensorRT-RTX can't be kept, each process compiles them again" in caplog.text

    def test_the_file_is_that_of_engine_version_and_gpu(
        self, tmp_path: Path, shared_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ):
        cuda = HostCuda()
        module = fake_tensorrt(shared_bundle.variant_file("fp32"), cuda)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
        monkeypatch.setattr(tensorrt_library, "find_devices", lambda: ((Device(0, (8, 6), "NVIDIA A10"),), ""))
        monkeypatch.setattr(tensorrt, "open_cuda", lambda *_: cuda)
        (tmp_path / "e.engine").write_bytes(b"engine")
        record = EngineRecord("e", "tensorrt_rtx", "fp32", "sm86", tools={"tensorrt_rtx": module.__version__})
        with tensorrt.load(tmp_path / "e.engine", record, 1) as session:
            assert session._kept is not None
            file = session._kept.path
        assert file.parent == tmp_path / ".cache" / "resnetrt" / "tensorrt_rtx"
        assert file.name == f"ed9f6f25068608ef-{module.__version__}-NVIDIA-A10.kernels"
        others = [(b"other", "1.7", "A"), (b"engine", "1.8", "A"), (b"engine", "1.7", "B"), (b"engine", "1.7", "A")]
        assert len({KernelFile.of(*each).path for each in others}) == 4


class TestRealBindings:
    def test_the_doubles_have_the_names_and_arguments_of_the_real_ones(self):
        trt = pytest.importorskip("tensorrt_rtx")
        for double, real in ((RuntimeConfigDouble, trt.IRuntimeConfig), (RuntimeCacheDouble, trt.IRuntimeCache)):
            names = {name for name in vars(double) if not name.startswith("_")} - {"HEADER", "kernels", "strategy"}
            assert [name for name in names if not hasattr(real, name)] == []
        assert "cache: " in trt.IRuntimeConfig.set_runtime_cache.__doc__
        assert "blob: " in trt.IRuntimeCache.deserialize.__doc__
        assert "runtime_config: " in trt.ICudaEngine.create_execution_context.__doc__
        assert "memory: typing.SupportsInt, size: typing.SupportsInt" in trt.IExecutionContext.set_device_memory.__doc__
        assert list(inspect.signature(RuntimeCacheDouble.deserialize).parameters)[1] == "blob"

    @pytest.mark.parametrize(
        "name",
        ["ExecutionContextAllocationStrategy", "DynamicShapesKernelSpecializationStrategy", "CudaGraphStrategy"],
    )
    def test_the_doubles_have_the_members_of_the_real_enums(self, name: str):
        trt = pytest.importorskip("tensorrt_rtx")
        real = {member: int(value) for member, value in getattr(trt, name).__members__.items()}
        assert {member.name: int(member) for member in getattr(RtxLibraryDouble, name)} == real
        assert issubclass(RtxLibraryDouble, LibraryDouble)
