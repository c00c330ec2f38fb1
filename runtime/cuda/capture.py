"""Capturing a graph while no garbage is collected.

A collection may find device memory that nobody refers to any more, and freeing that ends the capture of the thread that
it runs in (NVIDIA/TransformerEngine#2092).
"""

import gc
import threading
from collections.abc import Callable

from resnetrt.runtime.cuda.protocol import Cuda, Graph, Stream

_one = threading.RLock()  # else the first of two threads to end would turn collection on for the other


def capture(cuda: Cuda, stream: Stream, work: Callable[[], object]) -> Graph:
    """`Cuda.capture` without collection of garbage. One thread at a time captures."""
    with _one:
        collects = gc.isenabled()
        gc.disable()
        try:
            return cuda.capture(stream, work)
        finally:
            if collects:
                gc.enable()
