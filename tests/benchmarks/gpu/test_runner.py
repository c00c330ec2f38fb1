"""The GPU checks of the runner, in host memory: each passes, and each is seen failing on a planted fault."""

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from host_kernels import HostKernels, ThreadedHostCuda

from resnetrt.benchmarks.gpu import runner
from resnetrt.errors import CheckFailed, EnvironmentFault
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.stream import Batcher


class WithoutCaptures(ThreadedHostCuda):
    def capture(self, stream: int, work: Callable[[], object]) -> list[Any]:
        raise EnvironmentFault("CUDA: cudaStreamBeginCapture failed: planted")


class StaleGraphs(ThreadedHostCuda):
    def launch(self, graph: list[Any], stream: int) -> None:
        """Nothing runs."""


class KeepsMemory(ThreadedHostCuda):
    def free(self, address: int) -> None:
        """Nothing is freed."""


class CollectsNothing(ThreadedHostCuda):
    """As a runner that switches the garbage collector off while it captures."""

    def capture(self, stream: int, work: Callable[[], object]) -> list[Any]:
        enabled = gc.isenabled()
        gc.disable()
        try:
            return super().capture(stream, work)
        finally:
            if enabled:
                gc.enable()


class Collects(ThreadedHostCuda):
    """As a runner that leaves it on."""

    def capture(self, stream: int, work: Callable[[], object]) -> list[Any]:
        enabled = gc.isenabled()
        gc.enable()
        try:
            return super().capture(stream, work)
        finally:
            if not enabled:
                gc.disable()


class WrongSum(HostKernels):
    def add_one(self, target: int, source: int, count: int, stream: int) -> None:
        super().add_one(target, source, count, stream)
        if count > 1000:
            super().add_one(target, target, count, stream)


class TestBatches:
    def test_all_sizes_with_graphs(self):
        measured = runner.check_batches(HostKernels())
        assert measured["batches"] == 64
        assert measured["graphs"]

    @pytest.mark.parametrize(
        ("kernels", "fault"),
        [
            (HostKernels(WithoutCaptures()), "no CUDA graph was captured"),
            (HostKernels(StaleGraphs()), r"a batch of \d+: \d+ of \d+ logits differ"),
            (WrongSum(), r"a batch of \d+: \d+ of \d+ logits differ"),
        ],
    )
    def test_a_fault_is_found(self, kernels: HostKernels, fault: str):
        with pytest.raises(CheckFailed, match=fault):
            runner.check_batches(kernels)


class TestGraphCost:
    def test_both_ways_are_timed(self):
        costs = runner.check_graph_cost(HostKernels())
        assert costs["kernels"] == 61
        assert all(costs[f"{way}_{what}_median_ms"] > 0 for way in ("graph", "enqueued") for what in ("call", "device"))

    def test_a_graph_that_is_none_is_found(self):
        with pytest.raises(CheckFailed, match="no CUDA graph was captured"):
            runner.check_graph_cost(HostKernels(WithoutCaptures()))

    def test_a_graph_where_there_should_be_none_is_found(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(runner, "_WithoutGraphs", lambda cuda: cuda)
        with pytest.raises(CheckFailed, match="although the device was said to have none"):
            runner.check_graph_cost(HostKernels())


class TestLeaks:
    def test_everything_is_given_back(self):
        assert runner.check_leaks(HostKernels()) == {"sessions": 20, "lost_bytes": 0}

    def test_what_is_not_destroyed_is_found(self, monkeypatch: pytest.MonkeyPatch):
        kept: list[TensorRtSession] = []

        def keep(session: TensorRtSession) -> None:
            kept.append(session)

        monkeypatch.setattr(TensorRtSession, "_close", keep)
        with pytest.raises(CheckFailed, match=r"23 sessions were closed, not given back: .*'create_stream': 23"):
            runner.check_leaks(HostKernels())
        assert len(kept) == 23

    def test_memory_that_the_device_lacks_is_found(self):
        with pytest.raises(CheckFailed, match=r"20 sessions were closed, and the device has \d+ bytes less"):
            runner.check_leaks(HostKernels(KeepsMemory()))


class TestThreads:
    def test_four_capture_while_one_allocates(self):
        assert runner.check_capture_threads(HostKernels())["threads"] == 4

    @pytest.mark.parametrize(
        ("kernels", "fault"),
        [
            (HostKernels(WithoutCaptures()), "no CUDA graph was captured"),
            (HostKernels(StaleGraphs()), r"CheckFailed: a batch of \d+: \d+ of \d+ logits differ"),
        ],
    )
    def test_a_fault_is_found(self, kernels: HostKernels, fault: str):
        with pytest.raises(CheckFailed, match=fault):
            runner.check_capture_threads(kernels)

    def test_a_thread_that_waits_for_ever_is_found(self, monkeypatch: pytest.MonkeyPatch):
        class Waits(ThreadedHostCuda):
            def capture(self, stream: int, work: Callable[[], object]) -> list[Any]:
                time.sleep(2)
                return super().capture(stream, work)

        monkeypatch.setattr(runner, "_DEADLINE_S", 0.5)
        monkeypatch.setattr(runner, "_BATCHES", 1)
        with pytest.raises(CheckFailed, match="a thread did not end within"):
            runner.check_capture_threads(HostKernels(Waits()))


class TestGarbage:
    def test_a_collector_that_is_off_meanwhile(self):
        assert runner.check_free_in_capture(HostKernels(CollectsNothing()))["graphs"]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_one_that_runs_kills_the_capture(self):
        thresholds = gc.get_threshold()
        with pytest.raises(CheckFailed, match="no CUDA graph was captured"):
            runner.check_free_in_capture(HostKernels(Collects()))
        assert gc.get_threshold() == thresholds


class TestBatcher:
    def test_two_instances(self):
        measured = runner.check_batcher(HostKernels())
        assert measured["requests"] == 200
        assert len(measured["batches_by_instance"]) == 2

    def test_answers_of_others_are_found(self):
        with pytest.raises(CheckFailed, match=r"request \d+ of thread \d: \d+ of \d+ logits differ"):
            runner.check_batcher(HostKernels(StaleGraphs()))

    def test_an_instance_that_idles_is_found(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(runner, "Batcher", lambda sessions, *more, **named: Batcher(sessions[:1], *more, **named))
        with pytest.raises(CheckFailed, match="of 2 instances only 1 ran a batch"):
            runner.check_batcher(HostKernels())
