"""A build's progress on stderr, and Ctrl-C: TensorRT asks after each step whether to go on."""

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from resnetrt.settings import read_settings


@contextmanager
def watched(trt: Any, config: Any, label: str) -> Iterator[None]:
    """Show progress of the build that `config` is for; Ctrl-C ends it and raises `KeyboardInterrupt` here.

    The interrupt must not be raised inside TensorRT's callback, so it is remembered and the build told to stop.
    """
    stopped = threading.Event()
    with _interrupts(stopped), _bar(label) as show:
        config.progress_monitor = _monitor(trt, stopped, show)
        yield
    if stopped.is_set():
        raise KeyboardInterrupt


def _monitor(trt: Any, stopped: threading.Event, show: Callable[[str, int, int], None]) -> Any:
    """An IProgressMonitor; `show` gets the phase, its steps done and their number (0 at its end)."""
    totals: dict[str, int] = {}

    def initialize(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)

    def phase_start(self: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        totals[phase_name] = num_steps
        show(phase_name, 0, num_steps)

    def step_complete(self: Any, phase_name: str, step: int) -> bool:
        show(phase_name, step + 1, totals.get(phase_name, 0))
        return not stopped.is_set()

    def phase_finish(self: Any, phase_name: str) -> None:
        show(phase_name, 0, 0)

    methods = {"__init__": initialize} | {m.__name__: m for m in (phase_start, step_complete, phase_finish)}
    return type("Monitor", (trt.IProgressMonitor,), methods)()


@contextmanager
def _interrupts(stopped: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `stopped`; only the main thread may say so, in others a build can't be interrupted.

    Python's own handlers run in the main thread, which is inside TensorRT until the build ends, while TensorRT asks its
    monitor from other threads. So a thread reads the numbers of signals, which Python writes as they arrive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.setblocking(False)  # as Python demands
        watcher = threading.Thread(target=_watch, args=(receiver, stopped), name="resnetrt-interrupt", daemon=True)
        watcher.start()
        before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGINT, before)
            sender.shutdown(socket.SHUT_WR)
            watcher.join()


def _watch(receiver: socket.socket, stopped: threading.Event) -> None:
    while numbers := receiver.recv(64):
        if signal.SIGINT in numbers:
            stopped.set()


@contextmanager
def _bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    if not (read_settings().progress and sys.stderr.isatty()):
        yield lambda _phase, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if total and phase not in tasks:
                tasks[phase] = progress.add_task(f"{label}: {phase}", total=total)
            if phase in tasks:
                progress.update(tasks[phase], completed=done, visible=bool(total))

        yield show
