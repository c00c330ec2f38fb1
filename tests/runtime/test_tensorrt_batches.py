"""Batches one after the other: copies of one overlap with computing the next, whatever order streams get on in."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_bundle
from engine_double import engine_of, open_double
from gated_session import GatedSession
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.runtime.backends.tensorrt import TensorRtSession


def images(count: int, seed: int) -> np.ndarray:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, seed))


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda()


@pytest.fixture
def session(shared_bundle: Bundle, cuda: HostCuda) -> Iterator[TensorRtSession]:
    with open_double(shared_bundle, cuda) as made:
        yield made


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("seed", [None, *range(12)])
def test_each_batch_has_its_own_outputs(session: TensorRtSession, cuda: HostCuda, graphs: bool, seed: int | None):
    """Streams get on as late as they can, or by chance; one array holds each batch in turn."""
    session._runner._graphs = graphs
    cuda.chance = None if seed is None else random.Random(seed)
    counts = [4, 3, 16, 1, 8, 5, 8, 8, 2]
    room = np.empty((16, 3, 16, 16), np.float32)

    def batches() -> Iterator[np.ndarray]:
        for number, count in enumerate(counts):
            room[:count] = images(count, number)
            yield room[:count]

    answers = list(session.infer_batches(batches()))
    assert len(answers) == len(counts)
    for number, (count, outputs) in enumerate(zip(counts, answers, strict=True)):
        np.testing.assert_allclose(outputs["logits"], tiny_bundle.reference(images(count, number)), rtol=0, atol=1e-4)


def test_the_next_batch_is_on_its_way_before_results_are_waited_for(
    session: TensorRtSession, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []
    session.infer(images(4, 0))
    for name in ("copy_in", "finish", "launch", "synchronize"):
        real = getattr(cuda, name)
        monkeypatch.setattr(cuda, name, lambda *args, _name=name, _real=real: (order.append(_name), _real(*args))[1])
    list(session.infer_batches(images(4, seed) for seed in range(3)))
    assert order == ["copy_in", "launch", "copy_in", "launch", "finish", "copy_in", "launch", "finish", "finish"]


def test_a_call_in_between_is_a_call_of_its_own(session: TensorRtSession, cuda: HostCuda):
    cuda.chance = random.Random(1)
    for number, outputs in enumerate(session.infer_batches(images(4, seed) for seed in range(5))):
        other = session.infer(images(3, 50 + number))["logits"]
        np.testing.assert_allclose(other, tiny_bundle.reference(images(3, 50 + number)), rtol=0, atol=1e-4)
        np.testing.assert_allclose(outputs["logits"], tiny_bundle.reference(images(4, number)), rtol=0, atol=1e-4)


def test_memory_is_allocated_once_and_freed(shared_bundle: Bundle, cuda: HostCuda):
    session = open_double(shared_bundle, cuda)
    list(session.infer_batches(images(4, seed) for seed in range(3)))
    before = cuda.counts["allocate"]
    list(session.infer_batches(images(16, seed) for seed in range(3)))
    assert cuda.counts["allocate"] == before
    started = session.infer_batches(images(4, seed) for seed in range(3))
    next(started)  # and never asked again
    session.close()
    del session, started
    assert cuda.held == 0


def test_a_batch_that_does_not_fit_is_refused_and_the_session_goes_on(session: TensorRtSession):
    batches = session.infer_batches([images(4, 0), np.zeros((4, 3, 16, 17), np.float32)])
    with pytest.raises(UsageError, match=r"found float32 \(4, 3, 16, 17\)"):
        next(batches)
    (outputs,) = session.infer_batches([images(2, 7)])
    np.testing.assert_allclose(outputs["logits"], tiny_bundle.reference(images(2, 7)), rtol=0, atol=1e-4)


def test_a_failed_run_is_waited_for(session: TensorRtSession, cuda: HostCuda):
    session._runner._graphs = False
    list(session.infer_batches([images(4, 0)]))
    engine_of(session).fail["execute_async_v3"] = ""
    with pytest.raises(EnvironmentFault, match="execute_async_v3 failed"):
        list(session.infer_batches([images(4, 1)]))
    assert not any(cuda._queues.values())
    engine_of(session).fail.clear()
    (outputs,) = session.infer_batches([images(4, 2)])
    np.testing.assert_allclose(outputs["logits"], tiny_bundle.reference(images(4, 2)), rtol=0, atol=1e-4)


def test_a_session_without_a_device_infers_one_by_one():
    session = GatedSession()
    answers = session.infer_batches(np.full((2, 2), value, np.float32) for value in (1, 2))
    assert session.batches == []
    assert [outputs["y"][0, 0] for outputs in answers] == [2, 4]


def test_the_double_shows_a_copy_that_does_not_wait(session: TensorRtSession, cuda: HostCuda):
    """The guard of these tests: without the event the engine computes what was there before."""
    cuda.wait = lambda *_: None  # type: ignore[method-assign]
    session.infer(images(4, 9))
    (outputs,) = session.infer_batches([images(4, 0)])
    assert not np.allclose(outputs["logits"], tiny_bundle.reference(images(4, 0)), atol=1e-4)
