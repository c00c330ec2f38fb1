"""Device buffers that are lent to consumers and lent again once nobody refers to them."""

import weakref
from collections import deque

from resnetrt.runtime.cuda.protocol import Cuda, DeviceBuffer

_MOST_FREE = 2  # one is read while the next is written


class Loan:
    """A `buffer` in somebody's hands, given back when nothing refers to the loan any more. `again`: it was lent before.

    Who let go of it may still have it read by a stream, and DLPack tells neither the stream nor when it is done. So a
    buffer lent again may be written only after `Cuda.synchronize_device`.
    """

    def __init__(self, buffer: DeviceBuffer, again: bool) -> None:
        self.buffer, self.again = buffer, again


class BufferPool:
    """Buffers of one size. `lend` is for one thread; loans may end in any thread, and make no CUDA call there."""

    def __init__(self, cuda: Cuda, size_bytes: int) -> None:
        self._cuda, self._size_bytes = cuda, size_bytes
        self._free: deque[DeviceBuffer] = deque()

    def lend(self) -> Loan:
        """A buffer that nobody refers to, else a new one; of those that came back, two are kept."""
        while len(self._free) > _MOST_FREE:
            self._free.popleft()
        loan = (
            Loan(self._free.popleft(), True) if self._free else Loan(DeviceBuffer(self._cuda, self._size_bytes), False)
        )
        weakref.finalize(loan, _give_back, weakref.ref(self), loan.buffer).atexit = False
        return loan

    def take_back(self, buffer: DeviceBuffer) -> None:
        """What the end of a loan calls."""
        self._free.append(buffer)


def _give_back(pool: "weakref.ref[BufferPool]", buffer: DeviceBuffer) -> None:
    """Without the pool, which goes with its session, the buffer is freed: that waits for the device."""
    alive = pool()
    if alive is not None:
        alive.take_back(buffer)
