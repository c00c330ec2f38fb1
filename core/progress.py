"""Output of long work on stderr: bars on a terminal, and elsewhere a line every ten seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from resnetrt.settings import read_settings

T = TypeVar("T")
Say = Callable[[str], None]  # takes one line for people

EVERY_S = 10.0  # of silence, after which a line says that the work goes on


class _Silence:
    """When something was last shown, and what is being worked on, the innermost last."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.work: list[str] = []

    def is_long(self) -> bool:
        return time.monotonic() - self.since >= EVERY_S

    def ends(self) -> None:
        self.since = time.monotonic()


_silence = _Silence()


def show(line: str) -> None:
    """Print a line for people on stderr; the next line of `working` or `track` comes ten seconds later."""
    _silence.ends()
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextmanager
def working(what: str) -> Iterator[None]:
    """While the block runs, say after every ten seconds of silence that `what` goes on, and for how long it has run.

    A thread does that; for what is being timed there is `track`.
    """
    if not read_settings().progress:
        yield
        return
    started, done = time.monotonic(), threading.Event()

    def wait() -> None:
        while not done.wait(max(0.05, _silence.since + EVERY_S - time.monotonic())):
            if _silence.is_long() and _silence.work[-1:] == [what]:
                show(f"{what}: {_duration(time.monotonic() - started)} so far")

    _silence.ends()
    _silence.work.append(what)
    thread = threading.Thread(target=wait, name="resnetrt-working", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        _silence.work.remove(what)
        thread.join()


def track(
    items: Iterable[T], label: str, total: int | None, unit: str = "it", steps: int = 1, done: int = 0
) -> Iterator[T]:
    """Yield `items` and show the rate and the time left; `total` counts `unit`s, None if unknown.

    `steps` is how many `unit`s one item stands for (images in a batch); the last item may have fewer. In a resumed run
    `done` units are finished: `total` includes them, `items` has only the rest, and the rate is that of the rest. It is
    shown between items only, never by a thread, so that it does not disturb what is being timed.
    """
    if not read_settings().progress:
        yield from items
    elif sys.stderr.isatty():
        yield from _bar(items, label, total, unit, steps, done)
    else:
        yield from _lines(items, label, total, unit, steps, done)


def _lines(items: Iterable[T], label: str, total: int | None, unit: str, steps: int, done: int) -> Iterator[T]:
    started = time.monotonic()
    _silence.ends()
    reached = done
    for item in items:
        yield item
        reached = min(reached + steps, total or sys.maxsize)
        if _silence.is_long():
            seconds = time.monotonic() - started
            of, left = "", ""
            if total is not None:
                of = f" of {total}"
                left = f", about {_duration(seconds / max(1, reached - done) * (total - reached))} left"
            show(f"{label}: {reached}{of} {unit}, {_duration(seconds)}{left}")


def _bar(items: Iterable[T], label: str, total: int | None, unit: str, steps: int, done: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit} {{task.fields[rate]}}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task(label, total=total, completed=done, rate="")
        reached = done
        for item in items:
            yield item
            reached = min(reached + steps, total or sys.maxsize)
            progress.update(task, completed=reached)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.0f}/s" if speed else "", refresh=True)
            _silence.ends()


def _duration(seconds: float) -> str:
    """Such as 40 s or 2 min 30 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
