"""Batches of any size through an engine that takes some sizes only, with copies and computing overlapped on a GPU."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from resnetrt.runtime.session import Array, Session


def infer_each(session: Session, batches: Iterable[Array], output: str) -> Iterator[Array]:
    """The `output` for each of `batches`, as `Session.prepare` gives them, by `Session.infer_batches`.

    A batch that is too large for the engine is split, one that is too small is filled up with its own images; what is
    given has a row for each image. On a GPU the next batch is asked for before the outputs of the one before are given.
    """
    low, high = session.batch_limits
    waiting: deque[tuple[int, bool]] = deque()  # images in each part under way, and whether it is its batch's last

    def parts() -> Iterator[Array]:
        for batch in batches:
            count = len(batch)
            size = min(count, high or count)
            for first in range(0, count, size):
                part = batch[first : first + size]
                waiting.append((len(part), first + size >= count))
                yield part if len(part) >= low else part[np.arange(low) % len(part)]

    collected: list[Array] = []
    for outputs in session.infer_batches(parts()):
        images, last = waiting.popleft()
        collected.append(outputs[output][:images])
        if last:
            yield np.concatenate(collected) if len(collected) > 1 else collected[0]
            collected = []


class OnSession:
    """A session as a function from float32 images, or uint8 frames if it `takes_frames`, to the `output` for them."""

    def __init__(self, session: Session, output: str) -> None:
        self._session, self._output = session, output
        self.takes_frames = session.inputs[0].dtype == "uint8"

    def __call__(self, images: Array) -> Array:
        """The outputs for one batch."""
        low, high = self._session.batch_limits
        if low <= len(images) <= (high or len(images)):
            return self._session.infer(images)[self._output]
        return next(self.each([images]))

    def each(self, batches: Iterable[Array]) -> Iterator[Array]:
        """Those for one batch after the other; a GPU computes one while the next is made and copied."""
        return infer_each(self._session, batches, self._output)
