"""What the runtime needs of CUDA; `cuda-bindings` and `pycuda` implement it, and host memory for tests."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Stream = Any
Event = Any
Graph = Any


class Cuda(Protocol):
    """Memory, streams, events and graphs of one device.

    Addresses are integers; streams, events and graphs are whatever the implementation uses, to be handed back to it.
    Copies and `launch` only enqueue: their memory is in use until `synchronize`. Each call raises `EnvironmentFault`
    with CUDA's own words when it fails, how much memory was asked for if that ran out, and `DeviceLost` once an error
    made the device useless to this process. `lost` says so from then on, empty before. What frees or destroys raises
    nothing for such a device, nor in a forked process, which owns none of it.
    """

    name: str
    supports_graphs: bool
    dlpack_device: tuple[int, int]
    lost: str

    def check(self) -> None:
        """Raise `DeviceLost` if an error of an earlier call, also of another library, lost the device."""

    def current(self) -> AbstractContextManager[None]:
        """A block in which the device is the calling thread's; behind it is what was so before. It may be nested.

        Calls of other libraries that use the device, such as TensorRT's, belong in one. Calls of the protocol don't
        need it, and are cheaper in it.
        """

    def allocate(self, size_bytes: int) -> int:
        """Address of new device memory."""

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""

    def allocate_host(self, size_bytes: int) -> Bytes:
        """New page-locked host memory."""

    def free_host(self, address: int) -> None:
        """Free what `allocate_host` gave, by its address."""

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default stream."""

    def destroy_stream(self, stream: Stream) -> None:
        """Destroy what `create_stream` gave."""

    def handle(self, stream: Stream) -> int:
        """The `cudaStream_t` as an integer, for TensorRT and DLPack."""

    def copy_in(self, device: int, host: npt.NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous host array to the device."""

    def copy_out(self, host: npt.NDArray[Any], device: int, stream: Stream) -> None:
        """Fill a contiguous host array from the device."""

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Stream) -> None:
        """Copy device memory to other device memory."""

    def synchronize(self, stream: Stream) -> None:
        """Wait until everything in `stream` is done."""

    def synchronize_device(self) -> None:
        """Wait until everything in every stream of the device is done, whoever made the stream."""

    def create_event(self) -> Event:
        """An event that takes the time."""

    def record(self, event: Event, stream: Stream) -> None:
        """Let `event` happen behind what `stream` holds now."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Let what comes in `stream` from now on happen behind `event`, as it was recorded last; the host goes on."""

    def wait_of(self, handle: int, event: Event) -> None:
        """`wait`, of a stream that somebody else made, by its `cudaStream_t`. Raises `UsageError` if it can't."""

    def finish(self, event: Event) -> None:
        """Wait until `event` happened."""

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two recorded events; waits for `end`."""

    def destroy_event(self, event: Event) -> None:
        """Destroy what `create_event` gave."""

    def capture(self, stream: Stream, work: Callable[[], object]) -> Graph:
        """The graph of what `work` enqueues in `stream`, which is not run; `supports_graphs` must be true."""

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueue a captured graph."""

    def destroy_graph(self, graph: Graph) -> None:
        """Destroy what `capture` gave."""


class DeviceBuffer:
    """Device memory that is freed when nothing refers to it any more."""

    def __init__(self, cuda: Cuda, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = cuda.allocate(max(size_bytes, 1))
        weakref.finalize(self, cuda.free, self.address)


class PinnedBuffer:
    """Page-locked host memory, freed when neither this nor an array over it is left.

    It is not freed when the interpreter ends, as a thread may still write to an array over it then.
    """

    def __init__(self, cuda: Cuda, size_bytes: int) -> None:
        self._size_bytes = max(size_bytes, 1)
        self._address = int(cuda.allocate_host(self._size_bytes).ctypes.data)
        weakref.finalize(self, cuda.free_host, self._address).atexit = False

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """How numpy sees the memory; an array made from it, and so each view and slice, refers to this buffer."""
        return {"data": (self._address, False), "shape": (self._size_bytes,), "typestr": "|u1", "version": 3}

    @property
    def bytes(self) -> Bytes:
        """All of the buffer."""
        return np.asarray(self)

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The beginning of the buffer as an array of `shape` and `dtype`."""
        size = int(np.prod(shape)) * dtype.itemsize
        return self.bytes[:size].view(dtype).reshape(shape)


def is_pinned(array: npt.NDArray[Any]) -> bool:
    """Whether the array lies in the memory of a `PinnedBuffer`."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, PinnedBuffer)
