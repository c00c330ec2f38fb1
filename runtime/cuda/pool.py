"""Device buffers that are lent to consumers and lent again once nobody refers to them.

A stream may still read a buffer that nobody refers to any more, and DLPack tells neither the stream nor when it is
done. So the pool waits for the whole device before such a buffer is written or freed. (CUDA only says that `cudaFree`
"may perform implicit synchronization".)
"""

import weakref
from collections import deque
from contextlib import suppress

from resnetrt.errors import DeviceLost
from resnetrt.runtime.cuda.protocol import Cuda, DeviceBuffer

_MOST_FREE = 2  # one is read while the next is written


class Loan:
    """A `buffer` in somebody's hands, given back when nothing refers to the loan any more.

    `again`: it was lent before, and may be written only after `Cuda.synchronize_device`.
    """

    def __init__(self, buffer: DeviceBuffer, again: bool) -> None:
        self.buffer, self.again = buffer, again


class BufferPool:
    """Buffers of one size. `lend` is for one thread; loans end in any, without a CUDA call while the pool lives."""

    def __init__(self, cuda: Cuda, size_bytes: int) -> None:
        self._cuda, self._size_bytes = cuda, size_bytes
        self._free: deque[DeviceBuffer] = deque()

    def lend(self) -> Loan:
        """A buffer that nobody refers to, else a new one; of those that came back, two are kept."""
        self.keep(_MOST_FREE)
        again = bool(self._free)
        loan = Loan(self._free.popleft() if again else DeviceBuffer(self._cuda, self._size_bytes), again)
        weakref.finalize(loan, _give_back, weakref.ref(self), self._cuda, loan.buffer).atexit = False
        return loan

    def keep(self, count: int) -> None:
        """Free all but `count` of the buffers that came back."""
        surplus = [self._free.popleft() for _ in range(len(self._free) - count)]
        if surplus:
            _wait(self._cuda)

    def take_back(self, buffer: DeviceBuffer) -> None:
        """What the end of a loan calls."""
        self._free.append(buffer)


def _give_back(pool: "weakref.ref[BufferPool]", cuda: Cuda, buffer: DeviceBuffer) -> None:
    """Back to the pool; if that is gone with its session, the buffer is freed here."""
    alive = pool()
    if alive is None:
        _wait(cuda)
    else:
        alive.take_back(buffer)


def _wait(cuda: Cuda) -> None:
    """Wait for the device, on which nothing runs any more if it is lost."""
    with suppress(DeviceLost):
        cuda.synchronize_device()
