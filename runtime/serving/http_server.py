"""uvicorn as part of a larger process: given sockets, no signal handlers, a time limit for request heads."""

import asyncio
import contextlib
import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.serving.options import ServeOptions

_LAST_CHANCE_S = 0.2
_REFUSAL = json.dumps({"error": "the server has as many connections as it takes, none of them idle"}).encode()
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_REFUSAL), _REFUSAL)
)
_KEEP_ALIVE_S = 75  # longer than proxies keep an idle connection, so that the proxy closes it


def listen(host: str, port: int, what: str) -> socket.socket:
    """A listening socket. Raises `EnvironmentFault` if the address can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise EnvironmentFault(f"{what}: can't listen on {host}:{port} ({error.strerror}); choose another") from error
    return listener


class HttpServer(uvicorn.Server):
    """One ASGI application on one socket, until `should_exit` is set; then requests that run are finished."""

    def __init__(self, app: Any, options: ServeOptions) -> None:
        limits = options.limits
        config = uvicorn.Config(
            app,
            http=_protocol(limits.head_timeout_s, limits.max_connections),
            ws="none",
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=limits.max_head_bytes,
            timeout_graceful_shutdown=max(1, math.ceil(options.exit_timeout_s)),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the code that runs the event loop."""
        yield


def _protocol(head_timeout_s: float, most: int) -> type[asyncio.Protocol]:
    class PatientProtocol(H11Protocol):
        """uvicorn's, but a connection that does not bring a whole request head in time is closed.

        uvicorn has a limit only between requests, and drops even that with the first byte. Where `most` connections
        are open, a new one takes the place of the one that has been idle longest; uvicorn would refuse requests of all.
        """

        _clock: asyncio.TimerHandle | None = None
        _answered_at = 0.0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self._make_room()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._answered_at = self.loop.time()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _make_room(self) -> None:
            idle = [each for each in self.connections if isinstance(each, PatientProtocol) and each._is_idle()]
            if idle:
                min(idle, key=lambda each: each._answered_at).transport.close()
            else:
                self.transport.write(_FULL)
                self.transport.close()

        def _is_idle(self) -> bool:
            """Whether the connection has had an answer and has sent nothing since."""
            answered = self.cycle is not None and self.cycle.response_complete
            between = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
            return answered and between and not self.transport.is_closing()

        def _watch(self) -> None:
            """Run the timer while the rest of a head is missing, or of a body that was answered already."""
            idle = self.conn.their_state is h11.IDLE
            owes_head = idle and (self.cycle is None or bool(self.conn.trailing_data[0]))
            owes_body = self.cycle is not None and self.cycle.response_complete and not idle
            if not (owes_head or owes_body):
                self._stop()
            elif self._clock is None and not self.transport.is_closing():
                self._clock = self.loop.call_later(head_timeout_s, self._expired)

        def _expired(self) -> None:
            """Close, but first read what has arrived meanwhile: the process itself may have been delayed."""
            self._clock = self.loop.call_later(_LAST_CHANCE_S, self.transport.close)

        def _stop(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

    return PatientProtocol
