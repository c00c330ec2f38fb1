"""Outputs that a worker thread hands to the event loop."""

import asyncio
from contextlib import suppress

from resnetrt.runtime.session import Outputs


class LoopAnswer:
    """The answer to one request of the server; made in the event loop, settled in any thread.

    A `concurrent.futures.Future` with `asyncio.wrap_future` does the same, but needs three locks and two more
    iterations of the loop: 0.1 ms with the cold caches that the engine leaves.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[Outputs] = self._loop.create_future()
        self._cancelled = False

    async def outputs(self) -> Outputs:
        """Wait for them; raises what the engine or the queue did. Cancelling takes the request out of the queue."""
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self._cancelled = True
            raise

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled

    def set_running_or_notify_cancel(self) -> bool:
        """Whether somebody waits."""
        return not self._cancelled

    def set_result(self, result: Outputs) -> None:
        """Give the outputs to who waits."""
        self._tell(result, None)

    def set_exception(self, exception: BaseException) -> None:
        """Raise it where the outputs are waited for."""
        self._tell(None, exception)

    def _tell(self, outputs: Outputs | None, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._settle, outputs, error)

    def _settle(self, outputs: Outputs | None, error: BaseException | None) -> None:
        if self._waiter.done():
            return
        if error is not None:
            self._waiter.set_exception(error)
        elif outputs is not None:
            self._waiter.set_result(outputs)
