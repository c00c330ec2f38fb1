"""As many HTTP connections as the limit allows: who has one keeps it, who is idle makes room."""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from resnetrt.runtime.serving import Limits, ServeOptions
from resnetrt.runtime.serving.http_server import HttpServer, listen

MOST = 3
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def running():
    """A server for three connections, and how to make one; `/slow` is answered when the event is set."""
    event = asyncio.Event()

    async def answer(request: Request) -> PlainTextResponse:
        if request.url.path == "/slow":
            await event.wait()
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", answer), Route("/slow", answer)])
    server = HttpServer(app, ServeOptions(limits=Limits(max_connections=MOST)))
    place = listen("127.0.0.1", 0, "test")
    task = asyncio.ensure_future(server.serve(sockets=[place]))
    async with contextlib.AsyncExitStack() as stack:

        async def connect():
            reader, writer = await asyncio.open_connection(*place.getsockname())
            stack.callback(writer.close)
            return reader, writer

        yield connect, event
        event.set()
    server.should_exit = True
    await task


async def ask(connection, path: bytes = b"/") -> bytes:
    reader, writer = connection
    writer.write(ASK.replace(b"/ ", path + b" ", 1))
    return await reader.readuntil(b"ok")


def test_the_connection_that_was_idle_longest_makes_room():
    async def go() -> None:
        async with running() as (connect, _):
            connections = [await connect() for _ in range(MOST)]
            for connection in (*connections, connections[0]):
                assert b"200 OK" in await ask(connection)
            assert b"200 OK" in await ask(await connect())
            assert await connections[1][0].read() == b""  # the first was used again after it
            for kept in (connections[0], connections[2]):
                assert b"200 OK" in await ask(kept)

    asyncio.run(go())


def test_where_all_are_busy_a_new_one_is_refused_and_none_is_disturbed():
    async def go() -> None:
        async with running() as (connect, event):
            busy = [await connect() for _ in range(MOST)]
            answers = [asyncio.ensure_future(ask(connection, b"/slow")) for connection in busy]
            await asyncio.sleep(0.2)
            reader, _ = await connect()
            assert (await reader.read()).startswith(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json"
            )
            event.set()
            assert all([b"200 OK" in await answer for answer in answers])

    asyncio.run(go())
