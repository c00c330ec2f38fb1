"""Successive batches on three streams: one is copied in while another is computed and the one before is copied out.

There are two lanes, each with buffers for a whole batch on both sides; a batch is started in one before the results of
the other are waited for. What computes has buffers of its own with fixed addresses, as a CUDA graph needs them, and is
fed by copies on the device.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import ResnetrtError
from resnetrt.runtime.cuda.protocol import Bytes, Cuda, DeviceBuffer, PinnedBuffer, Stream


class Lane:
    """Buffers and events for every second batch."""

    def __init__(self, cuda: Cuda, input_bytes: int, output_bytes: Mapping[str, int]) -> None:
        self.pinned_input, self.input = PinnedBuffer(cuda, input_bytes), DeviceBuffer(cuda, input_bytes)
        self.outputs = {name: DeviceBuffer(cuda, size) for name, size in output_bytes.items()}
        self.pinned_outputs = {name: PinnedBuffer(cuda, size) for name, size in output_bytes.items()}
        self.uploaded, self.computed, self.downloaded = (cuda.create_event() for _ in range(3))

    @property
    def events(self) -> Iterable[Any]:
        """All of them, to be destroyed."""
        return self.uploaded, self.computed, self.downloaded


class Pipeline:
    """Feeds what computes in `stream`, from `source` to `results`; for one thread at a time."""

    def __init__(self, cuda: Cuda, stream: Stream, source: DeviceBuffer, results: Mapping[str, DeviceBuffer]) -> None:
        self._cuda, self._stream, self._source, self._results = cuda, stream, source, results
        self._up, self._down = cuda.create_stream(), cuda.create_stream()
        sizes = {name: buffer.size_bytes for name, buffer in results.items()}
        self._lanes = [Lane(cuda, source.size_bytes, sizes) for _ in range(2)]

    def start(self, batch: npt.NDArray[Any], result_bytes: Mapping[str, int], compute: Callable[[], object]) -> Lane:
        """Enqueue a batch, which is copied at once, and what `compute` enqueues; at most two batches are under way.

        `result_bytes` of each result are copied out. The lane must be handed to `finish`, in the same order.
        """
        lane = self._lanes.pop(0)
        self._lanes.append(lane)
        try:
            self._enqueue(lane, batch, result_bytes, compute)
        except BaseException:
            for stream in (self._up, self._stream, self._down):
                with suppress(ResnetrtError):  # the first error is the one to tell
                    self._cuda.synchronize(stream)
            raise
        return lane

    def finish(self, lane: Lane) -> dict[str, Bytes]:
        """The results of a batch, in pinned memory that the next but one batch overwrites."""
        self._cuda.finish(lane.downloaded)
        return {name: buffer.bytes for name, buffer in lane.pinned_outputs.items()}

    def close(self) -> None:
        """Wait for what is under way, and free everything."""
        for stream in (self._up, self._down):
            with suppress(ResnetrtError):  # a device that is lost runs nothing
                self._cuda.synchronize(stream)
            self._cuda.destroy_stream(stream)
        for lane in self._lanes:
            for event in lane.events:
                self._cuda.destroy_event(event)
        self._lanes.clear()

    def _enqueue(
        self, lane: Lane, batch: npt.NDArray[Any], result_bytes: Mapping[str, int], compute: Callable[[], object]
    ) -> None:
        cuda, pinned = self._cuda, lane.pinned_input.view(batch.shape, batch.dtype)
        np.copyto(pinned, batch)
        cuda.copy_in(lane.input.address, pinned, self._up)
        cuda.record(lane.uploaded, self._up)
        cuda.wait(self._stream, lane.uploaded)
        cuda.copy_on_device(self._source.address, lane.input.address, batch.nbytes, self._stream)
        compute()
        for name, size in result_bytes.items():
            cuda.copy_on_device(lane.outputs[name].address, self._results[name].address, size, self._stream)
        cuda.record(lane.computed, self._stream)
        cuda.wait(self._down, lane.computed)
        for name, size in result_bytes.items():
            cuda.copy_out(lane.pinned_outputs[name].bytes[:size], lane.outputs[name].address, self._down)
        cuda.record(lane.downloaded, self._down)
