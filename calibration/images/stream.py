"""A thread pool with a bounded look-ahead: decoding keeps all cores busy and memory flat."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], look_ahead: int, workers: int | None = None
) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of `items`, at most `look_ahead` of them started before they are taken.

    `workers` defaults to the cores of this process. An exception of `function` comes out at its item's place;
    closing the iterator early cancels what has not started.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), "decode") as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= look_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
