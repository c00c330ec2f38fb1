"""Engines whose layers run on auxiliary streams, as TensorRT's documents say that it uses them.

Its own streams wait for the one that it is given, which waits for them at the end (`set_aux_streams`); so in a capture
they join the graph. None of it has run on a GPU.
"""

import random

import numpy as np
import pytest
import tiny_bundle
from engine_double import engine_of, open_double
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.backends.tensorrt import TensorRtSession


def images(count: int, seed: int) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, seed))


def open_on(bundle: Bundle, streams: int, seed: int | None = None) -> tuple[TensorRtSession, HostCuda]:
    cuda = HostCuda()
    cuda.chance = None if seed is None else random.Random(seed)
    session = open_double(bundle, cuda)
    engine_of(session).num_aux_streams = streams
    return session, cuda


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_results_are_those_of_one_stream(shared_bundle: Bundle, streams: int, seed: int | None):
    plain, _ = open_on(shared_bundle, 0)
    session, cuda = open_on(shared_bundle, streams, seed)
    with plain, session:
        for index, count in enumerate((1, 8, 3, 16, 8, 1)):
            batch = images(count, index)
            assert np.array_equal(session.infer(batch)["logits"], plain.infer(batch)["logits"])
        batches = [images(count, 9 + count) for count in (4, 8, 2, 16, 7)]
        expected = [plain.infer(batch)["logits"] for batch in batches]
        pairs = zip(session.infer_batches(batches), expected, strict=True)
        assert all(np.array_equal(outputs["logits"], logits) for outputs, logits in pairs)
    assert cuda.counts["launch"] >= 6 + 5  # all of them by a graph


class TestCapture:
    """What CUDA demands of streams that a capture spreads to."""

    def test_a_stream_that_is_not_waited_for(self):
        cuda = HostCuda()
        main, other, event = cuda.create_stream(), cuda.create_stream(), cuda.create_event()

        def fork() -> None:
            cuda.record(event, main)
            cuda.wait(other, event)
            cuda.enqueue(other, lambda: None)

        with pytest.raises(EnvironmentFault, match="joined the capture was not waited for"):
            cuda.capture(main, fork)

    def test_work_behind_the_event_that_is_waited_for(self):
        cuda = HostCuda()
        main, other = cuda.create_stream(), cuda.create_stream()
        begin, end = cuda.create_event(), cuda.create_event()

        def fork() -> None:
            cuda.record(begin, main)
            cuda.wait(other, begin)
            cuda.record(end, other)
            cuda.enqueue(other, lambda: None)
            cuda.wait(main, end)

        with pytest.raises(EnvironmentFault, match="joined the capture was not waited for"):
            cuda.capture(main, fork)

    def test_an_event_of_other_work(self):
        cuda = HostCuda()
        main, other, event = cuda.create_stream(), cuda.create_stream(), cuda.create_event()
        cuda.record(event, other)
        with pytest.raises(EnvironmentFault, match="a dependency between a graph"):
            cuda.capture(main, lambda: cuda.wait(main, event))

    def test_an_event_of_a_capture_that_ended(self):
        cuda = HostCuda()
        main, event = cuda.create_stream(), cuda.create_event()
        cuda.capture(main, lambda: cuda.record(event, main))
        with pytest.raises(EnvironmentFault, match="a dependency between a graph"):
            cuda.wait(main, event)
