import asyncio
import threading
import weakref

import numpy as np
import pytest

from resnetrt.runtime.serving.answer import LoopAnswer


def settle(action):
    """The outcome of an answer on which another thread runs `action`."""

    async def wait():
        answer = LoopAnswer()
        threading.Thread(target=action, args=(answer,)).start()
        return await asyncio.wait_for(answer.outputs(), 10)

    return asyncio.run(wait())


def test_outputs_come_from_another_thread():
    outputs = {"logits": np.arange(3, dtype=np.float32)}
    assert settle(lambda answer: answer.set_result(outputs)) is outputs
    with pytest.raises(ValueError, match="engine"):
        settle(lambda answer: answer.set_exception(ValueError("engine")))


def test_the_first_outcome_counts():
    def twice(answer):
        answer.set_exception(ValueError("first"))
        answer.set_result({})

    with pytest.raises(ValueError, match="first"):
        settle(twice)


def test_who_gives_up_is_not_run_and_a_late_outcome_is_let_go():
    async def give_up():
        answer = LoopAnswer()
        waiting = asyncio.ensure_future(answer.outputs())
        await asyncio.sleep(0)
        before = answer.cancelled(), answer.set_running_or_notify_cancel()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        answer.set_result({})
        answer.set_exception(ValueError("late"))
        await asyncio.sleep(0)
        return before, (answer.cancelled(), answer.set_running_or_notify_cancel()), answer

    before, after, answer = asyncio.run(give_up())
    assert (before, after) == ((False, True), (True, False))
    answer.set_result({})  # its loop is closed


def test_an_answered_request_is_freed_at_once():
    async def run():
        answer = LoopAnswer()
        answer.set_result({})
        await answer.outputs()
        return weakref.ref(answer)

    assert asyncio.run(run())() is None
