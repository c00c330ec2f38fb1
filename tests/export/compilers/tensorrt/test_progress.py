"""Ctrl-C during a build whose monitor is called from threads of TensorRT, while the main thread is inside its code."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from resnetrt.export.compilers.tensorrt.progress import watched

_LIBC = ctypes.CDLL(None)


class Build:
    """A build that only its own thread goes on with; the main thread waits in C, where no Python handler can run."""

    def __init__(self) -> None:
        self.barrier = ctypes.create_string_buffer(64)
        _LIBC.pthread_barrier_init(self.barrier, None, 2)
        self.steps = 0
        self.monitor: object = None

    def run(self, before_step: Callable[[int], None], steps: int) -> None:
        worker = threading.Thread(target=self._work, args=(before_step, steps))
        worker.start()
        _LIBC.pthread_barrier_wait(self.barrier)  # a signal does not end it
        worker.join()

    def _work(self, before_step: Callable[[int], None], steps: int) -> None:
        monitor: object = self.monitor
        threading.Event().wait(0.1)  # until the main thread is in C
        try:
            monitor.phase_start("Building", None, steps)  # type: ignore[attr-defined]
            for step in range(steps):
                before_step(step)
                self.steps = step + 1
                if not monitor.step_complete("Building", step):  # type: ignore[attr-defined]
                    break
        finally:
            _LIBC.pthread_barrier_wait(self.barrier)


def _trt() -> SimpleNamespace:
    return SimpleNamespace(IProgressMonitor=type("IProgressMonitor", (), {}))


def _interrupt_and_wait(step: int) -> None:
    if step == 2:
        os.kill(os.getpid(), signal.SIGINT)
    if step >= 2:
        threading.Event().wait(0.02)  # the signal goes through the operating system


def _run(build: Build, config: SimpleNamespace) -> None:
    with watched(_trt(), config, "a network"):
        build.monitor = config.progress_monitor
        build.run(_interrupt_and_wait, 50)


def test_ctrl_c_ends_a_build_that_runs_in_other_threads():
    build, config = Build(), SimpleNamespace(progress_monitor=None)
    handler, wakeup = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with pytest.raises(KeyboardInterrupt):
        _run(build, config)
    assert 3 <= build.steps < 50
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert "resnetrt-interrupt" not in [thread.name for thread in threading.enumerate()]


def test_a_build_in_another_thread_runs_and_can_not_be_interrupted():
    """Python lets only the main thread take signals."""
    handler = signal.getsignal(signal.SIGINT)
    build, config = Build(), SimpleNamespace(progress_monitor=None)

    def work() -> None:
        with watched(_trt(), config, "a network"):
            build.monitor = config.progress_monitor
            build.run(lambda _: None, 5)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert build.steps == 5
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_build_that_nobody_interrupts_ends_by_itself():
    build, config = Build(), SimpleNamespace(progress_monitor=None)
    with watched(_trt(), config, "a network"):
        build.monitor = config.progress_monitor
        build.run(lambda _: None, 5)
    assert build.steps == 5
