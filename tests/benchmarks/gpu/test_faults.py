"""The GPU checks of faults, in host memory: each passes, and each is seen failing where nothing goes wrong."""

import gc
import time
from types import ModuleType
from typing import Any

import pytest
from host_kernels import HostKernels, ThreadedHostCuda

from resnetrt.benchmarks.gpu import faults
from resnetrt.errors import CheckFailed

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # memory of a lost context


class Harmless(HostKernels):
    def write_nowhere(self, stream: int) -> None:
        """Nothing is written."""


class Boundless(ThreadedHostCuda):
    """Says that it has any memory, as a device with overcommitment would."""

    def allocate(self, size_bytes: int) -> int:
        return super().allocate(min(size_bytes, 1 << 20))


class Forks(ThreadedHostCuda):
    @staticmethod
    def forked(name: str) -> None:
        """A device that does not mind."""


class HangsInFork(ThreadedHostCuda):
    @staticmethod
    def forked(name: str) -> None:
        time.sleep(60)


def test_a_lost_context():
    said = faults.check_sticky_error(HostKernels())["said"]
    assert len(said) == 4
    assert all("cudaErrorIllegalAddress" in words for words in said[:3])
    with pytest.raises(CheckFailed, match="waiting for the stream: expected an error, found none"):
        faults.check_sticky_error(Harmless())
    gc.collect()  # what belongs to the lost context complains here


def test_no_memory():
    assert "out of memory" in faults.check_out_of_memory(HostKernels())["said"]
    with pytest.raises(CheckFailed, match=r"an allocation of \d+ bytes: expected an error, found none"):
        faults.check_out_of_memory(HostKernels(Boundless()))


def test_a_fork(monkeypatch: pytest.MonkeyPatch):
    said = faults.check_fork(HostKernels())["said"]
    assert "forked" in said["the session"]
    assert "cudaErrorInitializationError" in said["a new session"]
    with pytest.raises(CheckFailed, match=r"a new session in a forked process: .* found: worked"):
        faults.check_fork(HostKernels(Forks()))
    monkeypatch.setattr(faults, "_FORK_S", 0.5)
    with pytest.raises(CheckFailed, match=r"a new session in a forked process: .* found: it hung"):
        faults.check_fork(HostKernels(HangsInFork()))


class TestForeignPlans:
    @staticmethod
    def library(takes: bytes | None = None) -> Any:
        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, blob: bytes) -> object:
                if takes is not None and blob.startswith(takes):
                    return object()
                self.logger.log(1, "IRuntime::deserializeCudaEngine: Error Code 1: planted refusal")
                return None

        class Logger:
            ERROR = 1

        module = ModuleType("tensorrt_lean")
        module.__dict__.update(__version__="10.16.0", ILogger=Logger, Runtime=Runtime)
        return module

    def test_all_are_refused_with_a_reason(self):
        measured = faults.check_foreign_plans(self.library())
        assert set(measured["said"]) == {"empty", "text", "noise", "another magic"}
        assert all("planted refusal" in words for words in measured["said"].values())

    def test_one_that_is_taken_is_found(self):
        with pytest.raises(CheckFailed, match=r"tensorrt_lean 10\.16\.0 took another magic for a plan"):
            faults.check_foreign_plans(self.library(b"ftrt"))
