"""Images that are decoded once, and a reference that runs once, for many trials on the same data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from resnetrt.benchmarks.measure.latency import Infer
from resnetrt.calibration.images.data import Dataset, IntArray
from resnetrt.preprocess import FloatArray, UInt8Array


class Frames:
    """Decoded frames in memory as an image source, which every trial reads."""

    def __init__(self, frames: UInt8Array, dataset: Dataset) -> None:
        self._frames = frames
        self._row = {int(index): row for row, index in enumerate(dataset.indices)}
        self.identity, self.content = dataset.identity, dataset.source.content

    def batches(self, indices: IntArray, size: int) -> Iterator[UInt8Array]:
        """Yield the frames of `indices`, at most `size` at a time."""
        for start in range(0, len(indices), size):
            yield self._frames[[self._row[int(index)] for index in indices[start : start + size]]]


@dataclass(frozen=True, eq=False)
class DataHalf:
    """Half of the data with the reference's logits, used by every trial."""

    dataset: Dataset
    logits: FloatArray

    @classmethod
    def load(cls, dataset: Dataset, infer: Callable[[UInt8Array], FloatArray], size: int = 50) -> "DataHalf":
        """Decode `dataset` once, and run the reference `infer` on its frames once, batch by batch."""
        frames: list[UInt8Array] = []
        logits: list[FloatArray] = []
        for batch in dataset.batches(size):
            frames.append(batch.frames)
            logits.append(infer(batch.frames))
        source = Frames(np.concatenate(frames), dataset)
        return cls(replace(dataset, source=source), np.concatenate(logits))

    def replay(self, size: int) -> Infer:
        """The reference, which answers from memory, batch after batch of `size`."""
        parts = iter(self.logits[start : start + size] for start in range(0, len(self.logits), size))
        return lambda _images: next(parts)
