"""`grpc.health.v1`, saying what `/v2/health/ready` says."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from resnetrt.runtime.serving.repository import Repository

_INTERVAL_S = 0.25
_Reply = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The state of the server, under an empty name and under `service`.

    Watchers hear of a change within a quarter of a second. They are released when the server drains, because they would
    delay its end.
    """

    def __init__(self, repository: Repository, service: str) -> None:
        self._repository = repository
        self._names = ("", service)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The state of now; NOT_FOUND for another service."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Reply(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """The state, and again whenever it changes."""
        told = None
        while True:
            last, status = self._repository.draining, self._status(request.service)
            if status != told:
                await context.write(_Reply(status=status))
                told = status
            if last:
                return
            await asyncio.sleep(_INTERVAL_S)

    def _status(self, service: str) -> Any:
        if service not in self._names:
            return _Reply.SERVICE_UNKNOWN
        return _Reply.SERVING if self._repository.ready else _Reply.NOT_SERVING
