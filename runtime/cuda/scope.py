"""The block within which a device is the calling thread's, as `Cuda.current` gives it."""

import threading
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Scope(threading.local):
    """A `with` block around calls: `enter` before the outermost of a thread's nested blocks, `leave` after it.

    A class and not a generator, because it surrounds the hot path. Each thread counts its own blocks.
    """

    active = 0

    def __init__(self, enter: Callable[[], object], leave: Callable[[], object]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        if not self.active:
            self._enter()
        self.active += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.active -= 1
        if not self.active:
            self._leave()


def on_device(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Of a class that has its `Cuda` in `_cuda`: the method runs in a block of `current`."""

    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        owner: Any = self
        with owner._cuda.current():
            return method(self, *args, **kwargs)

    return call
