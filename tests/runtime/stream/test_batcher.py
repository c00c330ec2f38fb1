import concurrent.futures
import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from gated_session import GatedSession

from resnetrt.errors import UsageError
from resnetrt.runtime.stream import (
    Batcher,
    BatchOptions,
    Closed,
    DeadlineExceeded,
    Dropped,
    EngineFailed,
    Overloaded,
)
from resnetrt.runtime.stream.instances import Instances
from resnetrt.runtime.stream.pending import Pending, Request

WAIT_S = 30


def image(value: float, count: int = 1) -> np.ndarray:
    return np.full((count, 2), value, np.float32)


@pytest.fixture
def session():
    return GatedSession()


@pytest.fixture
def make(session):
    """A batcher whose engine is busy with a first request, of value -1, until `session.gate` is set."""
    made = []

    def build(**options) -> Batcher:
        batcher = Batcher([session], BatchOptions(**options))
        made.append(batcher)
        session.gate.clear()
        batcher.stream().infer_async(image(-1))
        assert session.entered.acquire(timeout=WAIT_S)
        return batcher

    yield build
    session.gate.set()
    for batcher in made:
        batcher.close()


def finish(session, *futures):
    session.gate.set()
    return [future.result(WAIT_S)["y"] for future in futures]


def test_each_request_gets_its_own_part_of_a_common_batch(make, session):
    batcher = make()
    streams = [batcher.stream(), batcher.stream()]
    sent = [image(1), image(2, 3), image(3, 2)]
    futures = [streams[index % 2].infer_async(batch) for index, batch in enumerate(sent)]
    results = finish(session, *futures)
    assert session.sizes() == [1, 6]
    for result, batch in zip(results, sent, strict=True):
        np.testing.assert_array_equal(result, batch * 2)


def test_a_batch_is_never_larger_than_allowed_and_keeps_the_order(make, session):
    stream = make(max_batch_size=4).stream()
    finish(session, *[stream.infer_async(image(value, 3 if value == 1 else 1)) for value in range(6)])
    assert session.sizes() == [1, 4, 4]
    assert np.concatenate(session.batches)[1:, 0].tolist() == [0, 1, 1, 1, 2, 3, 4, 5]


def test_a_preferred_size_is_taken_when_it_is_reached(make, session):
    stream = make(max_batch_size=8, preferred_batch_size=(2, 4)).stream()
    finish(session, *[stream.infer_async(image(0)) for _ in range(7)])
    assert session.sizes() == [1, 4, 2, 1]


def test_with_a_delay_a_small_batch_waits_for_more():
    session = GatedSession()
    with Batcher([session], BatchOptions(max_batch_size=2, max_queue_delay_microseconds=60_000_000)) as batcher:
        stream = batcher.stream()
        futures = [stream.infer_async(image(1)), stream.infer_async(image(2))]
        finish(session, *futures)  # would hang for a minute if the full batch did not end the wait
        assert session.sizes() == [2]
        last = stream.infer_async(image(3))
    assert last.result(0)["y"][0, 0] == 6  # closing ends the wait too


def test_reject_refuses_what_the_queue_has_no_room_for(make, session):
    batcher = make(max_queue_size=2)
    stream = batcher.stream()
    futures = [stream.infer_async(image(1)), stream.infer_async(image(2))]
    with pytest.raises(Overloaded, match="2 requests wait"):
        stream.infer_async(image(3))
    finish(session, *futures)
    assert stream.counts == {"done": 2, "rejected": 1}
    assert batcher.statistics.outcomes()["rejected"] == 1


def test_drop_oldest_gives_up_the_stalest_request_of_the_same_stream(make, session):
    batcher = make()
    camera, other = batcher.stream(2, "drop-oldest"), batcher.stream()
    kept = other.infer_async(image(9))
    futures = [camera.infer_async(image(value)) for value in range(4)]
    results = finish(session, kept, *futures[2:])
    assert [result[0, 0] for result in results] == [18, 4, 6]
    for future in futures[:2]:
        with pytest.raises(Dropped):
            future.result(0)
    assert camera.counts == {"done": 2, "dropped": 2}


def test_drop_oldest_refuses_when_others_fill_the_queue(make, session):
    batcher = make(max_queue_size=1)
    kept = batcher.stream().infer_async(image(1))
    with pytest.raises(Overloaded):
        batcher.stream(2, "drop-oldest").infer_async(image(2))
    finish(session, kept)


def test_a_cancelled_request_never_runs_and_makes_room(make, session):
    batcher = make(max_queue_size=1)
    stream = batcher.stream()
    cancelled = stream.infer_async(image(5))
    assert cancelled.cancel()
    kept = stream.infer_async(image(6))
    finish(session, kept)
    assert 5 not in np.concatenate(session.batches)
    with pytest.raises(CancelledError):
        cancelled.result(0)
    assert batcher.statistics.outcomes()["cancelled"] == 1


def test_a_request_past_its_deadline_is_told_and_never_runs(make, session):
    batcher = make()
    stream = batcher.stream()
    expired = stream.infer_async(image(5), timeout_microseconds=1)
    kept = stream.infer_async(image(6))
    finish(session, kept)
    with pytest.raises(DeadlineExceeded, match="past its deadline"):
        expired.result(WAIT_S)
    assert 5 not in np.concatenate(session.batches)
    assert (stream.counts["expired"], batcher.statistics.outcomes()["expired"]) == (1, 1)


def test_a_result_that_comes_too_late_is_counted(make, session):
    batcher = make()
    stream = batcher.stream()
    session.gate.set()
    while batcher.waiting:
        pass
    session.gate.clear()
    late = stream.infer_async(image(1), timeout_microseconds=200_000)
    assert session.entered.acquire(timeout=WAIT_S)
    with pytest.raises(concurrent.futures.TimeoutError):  # another class than TimeoutError in Python 3.10
        late.result(0.3)
    finish(session, late)
    assert stream.counts == {"late": 1}


def test_one_bad_request_fails_alone(make, session):
    batcher = make()
    stream = batcher.stream()
    good, bad, fine = (stream.infer_async(image(value)) for value in (1, np.nan, 3))
    assert [result[0, 0] for result in finish(session, good, fine)] == [2, 6]
    with pytest.raises(EngineFailed, match="engine gated: inference failed: no numbers") as caught:
        bad.result(WAIT_S)
    assert isinstance(caught.value.__cause__, ValueError)
    assert session.sizes() == [1, 3, 1, 1, 1]
    stats = batcher.statistics.to_json()
    assert (stats["inference_stats"]["success"]["count"], stats["inference_stats"]["fail"]["count"]) == (3, 1)


@pytest.mark.parametrize(
    "batch", [np.zeros((1, 3), np.float32), np.zeros((1, 2)), np.zeros((0, 2), np.float32), "x", image(0, 9)]
)
def test_what_does_not_fit_is_refused_before_it_is_queued(make, batch):
    batcher = make()
    with pytest.raises(UsageError, match="request: expected"):
        batcher.stream().infer_async(batch)
    assert batcher.waiting == 0


def test_buffers_are_lent_again_and_read_where_they_lie(session):
    with Batcher([session]) as batcher:
        stream = batcher.stream(capacity=1)
        seen = set()
        for value in range(5):
            buffer = stream.buffer()
            buffer[:] = value
            seen.add(buffer.ctypes.data)
            assert stream.infer(buffer)["y"][0, 0] == 2 * value
        assert len(seen) == 1
        assert set(session.addresses) == seen


def test_buffers_are_a_fixed_number(session):
    with Batcher([session]) as batcher:
        stream = batcher.stream(capacity=2)
        buffers = [stream.buffer() for _ in range(5)]
        assert len({buffer.ctypes.data for buffer in buffers}) == 5
        with pytest.raises(Overloaded, match="all 5 buffers"):
            stream.buffer()
        stream.infer(buffers[0])
        assert stream.buffer() is buffers[0]


@pytest.mark.parametrize("drain", [True, False])
def test_closing_runs_what_waits_or_fails_it(session, drain):
    session.gate.clear()
    batcher = Batcher([session])
    stream = batcher.stream()
    running = stream.infer_async(image(1))
    assert session.entered.acquire(timeout=WAIT_S)
    waiting = stream.infer_async(image(2))
    if drain:
        session.gate.set()
    else:
        waiting.add_done_callback(lambda _: session.gate.set())
    batcher.close(drain)
    assert running.result(0)["y"][0, 0] == 2
    if drain:
        assert waiting.result(0)["y"][0, 0] == 4
    else:
        with pytest.raises(Closed):
            waiting.result(0)
    assert session.closed
    with pytest.raises(Closed):
        stream.infer_async(image(3))


def test_a_request_refused_while_closing_drops_none_that_waits(make, session):
    batcher = make(max_batch_size=1)
    camera = batcher.stream(capacity=1, overload="drop-oldest")
    waiting = camera.infer_async(image(2))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closing:
        time.sleep(0.001)
    with pytest.raises(Closed):
        camera.infer_async(image(3))
    assert finish(session, waiting)[0][0, 0] == 4
    closing.join(WAIT_S)
    assert camera.counts == {"done": 1}


def test_an_output_that_can_not_be_shared_out_fails_its_requests_only(session):
    infer = session._infer
    session._infer = lambda batch: infer(batch) | ({"y": np.float32(0)} if batch[0, 0] == 5 else {})
    with Batcher([session]) as batcher:
        stream = batcher.stream()
        with pytest.raises(EngineFailed, match="inference failed"):
            stream.infer_async(image(5)).result(WAIT_S)
        assert stream.infer_async(image(1)).result(WAIT_S)["y"][0, 0] == 2


@pytest.mark.parametrize("locked", [False, True])
def test_a_forked_batcher_says_so_instead_of_waiting_for_ever(session, locked):
    with Batcher([session]) as batcher:
        stream = batcher.stream()
        uses = [
            lambda: stream.infer(image(1)),
            lambda: stream.infer_async(image(1)),
            stream.buffer,
            batcher.stream,
            batcher.warm_up,
        ]
        with batcher._changed if locked else contextlib.nullcontext():  # as another thread may at any moment
            child = os.fork()
        if child == 0:
            signal.alarm(WAIT_S)
            said = 0
            try:
                with batcher:
                    for use in uses:
                        try:
                            use()
                        except UsageError as error:
                            said += "forked" in str(error)
                batcher.close()
                batcher.close(drain=False)
            finally:
                os._exit(said)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(uses)
        assert stream.infer(image(1))["y"][0, 0] == 2  # where it was made it works as before
    assert session.closed


def test_every_engine_warms_up_in_the_thread_that_answers_for_it():
    sessions = [GatedSession() for _ in range(3)]
    threads: list[set[str]] = [set() for _ in sessions]
    for session, names in zip(sessions, threads, strict=True):
        session._infer = lambda batch, infer=session._infer, names=names: (
            names.add(threading.current_thread().name) or infer(batch)
        )
    with Batcher(sessions, BatchOptions(max_batch_size=2)) as batcher:
        batcher.warm_up()
    assert threads == [{"resnetrt-engine-0"}, {"resnetrt-engine-1"}, {"resnetrt-engine-2"}]


def test_a_warm_up_that_fails_is_the_callers_and_the_thread_goes_on(session):
    infer, failed = session._infer, RuntimeError("no memory")

    def fail_once(batch: np.ndarray) -> dict[str, np.ndarray]:
        session._infer = infer
        raise failed

    session._infer = fail_once
    with Batcher([session]) as batcher:
        with pytest.raises(RuntimeError, match="no memory"):
            batcher.warm_up()
        assert batcher.stream().infer(image(1))["y"][0, 0] == 2
    with pytest.raises(Closed, match="can't be warmed up"):
        batcher.warm_up()


def test_a_fixed_batch_is_filled_up():
    session = GatedSession(batch=4)
    with Batcher([session], BatchOptions(max_batch_size=8)) as batcher:
        batcher.warm_up()
        assert batcher.stream().infer(image(3))["y"].tolist() == [[6, 6]]
    assert session.sizes() == [4, 4]


def test_batches_are_no_larger_than_the_engine_takes():
    session = GatedSession(batch=4)
    session.gate.clear()
    options = BatchOptions(max_batch_size=8, preferred_batch_size=(4, 6), max_queue_delay_microseconds=60_000_000)
    with Batcher([session], options) as batcher:
        stream = batcher.stream()
        first = [stream.infer_async(image(value)) for value in range(4)]
        assert session.entered.acquire(timeout=WAIT_S)  # none waits for the eight that the options allow
        rest = [stream.infer_async(image(value)) for value in range(4, 12)]
        results = finish(session, *first, *rest)
    assert [result[0, 0] for result in results] == [2 * value for value in range(12)]
    assert len(session.batches) == 3


def test_a_batch_is_held_for_half_of_its_first_deadline():
    now = 1_000_000_000
    pending = Pending(BatchOptions(max_queue_delay_microseconds=300_000), clock=lambda: now)
    pending.add(Request(image(1), None, Future(), deadline_ns=now + 200_000_000))
    pending.add(Request(image(2), None, Future(), deadline_ns=now + 900_000_000))
    assert pending.hold_ns() == 100_000_000
    now += 100_000_000
    assert pending.hold_ns() == 0
    assert not pending.take_over()
    assert len(pending.take_batch()) == 2


def test_a_stream_for_no_requests_is_refused(session):
    with Batcher([session]) as batcher, pytest.raises(UsageError, match="capacity: expected at least 1, found 0"):
        batcher.stream(capacity=0)


def test_a_callback_may_not_close_its_own_engine(session):
    raised = []

    def close(*_):
        with pytest.raises(UsageError, match="close: expected another thread") as caught:
            batcher.close()
        raised.append(caught.value)

    with Batcher([session], after=close) as batcher:
        batcher.stream().infer(image(1))
    assert raised
    assert session.closed


def test_a_callback_that_fails_fails_no_request(session):
    def fail(*_):
        raise RuntimeError("broken")

    with Batcher([session], after=fail) as batcher:
        assert batcher.stream().infer(image(1))["y"][0, 0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size: expected at least 1"),
        ({"max_queue_delay_microseconds": -1}, "expected 0 or more"),
        ({"preferred_batch_size": (4, 9)}, "preferred_batch_size: expected 1 to 8, found 9"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        BatchOptions(**options)


def test_an_unknown_overload_policy_is_refused(session):
    with Batcher([session]) as batcher, pytest.raises(UsageError, match="did you mean drop-oldest"):
        batcher.stream(2, "drop-olddest")


def test_the_batch_of_a_finished_request_is_freed_at_once():
    batch = image(1)
    freed = weakref.ref(batch)
    gc.disable()
    try:
        with Batcher([GatedSession()]) as batcher:
            stream = batcher.stream()
            stream.infer(batch)
            del batch
            stream.infer(image(2))  # until then the worker holds the one before
            assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("offset", [0, 1])
def test_what_no_engine_should_be_given_is_copied_to_the_batch(offset):
    received = np.zeros(offset + 8, np.uint8)
    batch = received[offset:].view(np.float32).reshape(1, 2)
    batch[:] = 3
    session = GatedSession()
    with Batcher([session]) as batcher:
        assert batcher.stream().infer(batch)["y"].tolist() == [[6, 6]]
    in_place = session.addresses == [batch.ctypes.data]
    assert in_place is batch.flags.aligned is (offset == 0)


def test_a_batch_that_is_alone_takes_the_wide_instance_and_others_do_not():
    narrow, wide = [GatedSession(), GatedSession()], GatedSession()
    with Batcher(Instances(tuple(narrow), wide)) as batcher:
        stream = batcher.stream()
        wide.gate.clear()
        alone = stream.infer_async(image(1))
        assert wide.entered.acquire(timeout=WAIT_S)
        beside = stream.infer(image(2))  # while the wide one is busy
        wide.gate.set()
        np.testing.assert_array_equal([alone.result(WAIT_S)["y"], beside["y"]], [image(2), image(4)])
        assert [session.sizes() for session in (*narrow, wide)].count([]) == 1
        for session in narrow:
            session.batches.clear()
        for value in (3, 4):  # one after the other: nothing beside either
            _idle(batcher)
            stream.infer(image(value))
    assert [session.sizes() for session in (*narrow, wide)] == [[], [], [1, 1, 1]]
    assert all(session.closed for session in (*narrow, wide))


def test_what_waits_when_a_batch_starts_makes_it_not_alone():
    narrow, wide = GatedSession(), GatedSession()
    with Batcher(Instances((narrow,), wide), BatchOptions(max_batch_size=1)) as batcher:
        stream = batcher.stream()
        wide.gate.clear()
        first = stream.infer_async(image(1))
        assert wide.entered.acquire(timeout=WAIT_S)
        rest = [stream.infer_async(image(value)) for value in (2, 3)]
        wide.gate.set()
        for future in (first, *rest):
            future.result(WAIT_S)
    assert (narrow.sizes(), wide.sizes()) == ([1], [1, 1])  # the second with the third behind it, the third alone


def _idle(batcher):
    """Wait until the worker of the last batch is back in the queue."""
    deadline = time.monotonic() + WAIT_S
    while batcher._running and time.monotonic() < deadline:
        time.sleep(0.001)
