"""The server process: HTTP, gRPC and metrics in one event loop, readiness, and an orderly end."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resnetrt.errors import DeviceLost, EnvironmentFault
from resnetrt.runtime.serving.grpc_service import SERVICE, GrpcService
from resnetrt.runtime.serving.health import Health
from resnetrt.runtime.serving.http_app import HttpApp
from resnetrt.runtime.serving.http_server import HttpServer, listen
from resnetrt.runtime.serving.inference import Inference
from resnetrt.runtime.serving.metrics import registry_of
from resnetrt.runtime.serving.options import ModelSpec, ServeOptions
from resnetrt.runtime.serving.repository import Repository
from resnetrt.runtime.serving.shared_memory import SharedMemory

_log = logging.getLogger("resnetrt.serve")
_INTERVAL_S = 0.25  # between looks at the devices
_SWITCH_S = 0.0005  # an engine's thread that returns with outputs waits this long for the event loop, not 5 ms
_LOOKAHEAD_BYTES = 1 << 20  # a client may send this much at once: an image needs no window update
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Ports:
    """Where the server listens."""

    http: int
    grpc: int
    metrics: int


def run(specs: list[ModelSpec], options: ServeOptions, announce: Callable[[Ports], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted; a second signal ends at once.

    `announce` is called with the ports as soon as they listen, before the models are loaded. Raises what loading a
    model raises, `EnvironmentFault` for a port that is taken, `DeviceLost` when a model's GPU is lost.
    """
    sys.setswitchinterval(_SWITCH_S)
    asyncio.run(Server(specs, options).serve(announce))


class Server:
    """One server. `serve` is called once."""

    def __init__(self, specs: list[ModelSpec], options: ServeOptions) -> None:
        self._options = options
        self._repository = Repository(specs, options)
        self._shared_memory = SharedMemory(allowed=_is_loopback(options.host))
        inference = Inference(self._repository, self._shared_memory)
        self._http = HttpServer(HttpApp(self._repository, inference, self._shared_memory).app, options)
        self._metrics = HttpServer(_metrics_app(registry_of(self._repository)), options)
        self._grpc_service = GrpcService(self._repository, inference, self._shared_memory)
        self._health = Health(self._repository, SERVICE)

    async def serve(self, announce: Callable[[Ports], None]) -> None:
        """Listen, load, be ready, wait for a signal, drain."""
        options, loop = self._options, asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, stop)
        sockets = [
            listen(options.host, port, what)
            for port, what in ((options.http_port, "--http-port"), (options.metrics_port, "--metrics-port"))
        ]
        grpc_server, grpc_port = await self._start_grpc()
        servers = [
            asyncio.ensure_future(server.serve(sockets=[place]))
            for server, place in zip((self._http, self._metrics), sockets, strict=True)
        ]
        try:
            announce(Ports(_port(sockets[0]), grpc_port, _port(sockets[1])))
            await self._until(self._repository.load_all(), stop)
            if not stop.is_set():
                _log.info("ready")
                await self._until(self._watch_devices(), stop)
        finally:
            await self._drain(grpc_server, servers)
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def _until(self, work: Any, stop: asyncio.Event) -> None:
        """Wait for `work`, or for `stop`; raises what the work raises."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()

    async def _watch_devices(self) -> None:
        """Raise `DeviceLost` as soon as a model's device is lost: only another process can go on."""
        while not self._repository.lost:
            await asyncio.sleep(_INTERVAL_S)
        raise DeviceLost(self._repository.lost)

    async def _start_grpc(self) -> tuple[Any, int]:
        options = self._options
        size = options.limits.max_body_bytes
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", options.limits.max_head_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
            ),
            maximum_concurrent_rpcs=options.limits.max_connections,
        )
        server.add_generic_rpc_handlers((self._grpc_service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            port = server.add_insecure_port(f"{host}:{options.grpc_port}")
        except RuntimeError as error:
            raise EnvironmentFault(
                f"--grpc-port: can't listen on {host}:{options.grpc_port}; choose another"
            ) from error
        await server.start()
        return server, int(port)

    def _on_signal(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            _log.warning("second signal: ending at once")
            os._exit(128 + signal.SIGTERM)
        self._repository.drain()
        stop.set()

    async def _drain(self, grpc_server: Any, servers: list[asyncio.Task[None]]) -> None:
        """Take no more, answer what was taken, free the engines; the metrics stay until the end."""
        self._repository.drain()
        _log.info("draining")
        self._http.should_exit = True
        await asyncio.gather(grpc_server.stop(self._options.exit_timeout_s), servers[0], return_exceptions=True)
        await self._repository.close()
        self._metrics.should_exit = True
        await asyncio.gather(servers[1], return_exceptions=True)
        self._shared_memory.close()
        _log.info("stopped")


def _metrics_app(registry: CollectorRegistry) -> Starlette:
    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


def _port(place: socket.socket) -> int:
    return int(place.getsockname()[1])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
