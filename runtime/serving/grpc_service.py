"""The V2 protocol over gRPC, with the messages of tritonclient's stubs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2

from resnetrt.runtime.serving.faults import Kind, RequestFault, as_fault, invalid
from resnetrt.runtime.serving.grpc_codec import Received, parse, read_request, write_response
from resnetrt.runtime.serving.http_app import server_metadata
from resnetrt.runtime.serving.inference import Inference
from resnetrt.runtime.serving.repository import Repository
from resnetrt.runtime.serving.shared_memory import SharedMemory

_log = logging.getLogger("resnetrt.serve")
SERVICE = "inference.GRPCInferenceService"
_IN_FLIGHT = 64  # requests of one stream that are processed at once

Reply = Callable[[Any], Awaitable[Any]]


class GrpcService:
    """Handlers over one repository, named as in the service definition."""

    def __init__(self, repository: Repository, inference: Inference, shared_memory: SharedMemory) -> None:
        self._repository = repository
        self._inference = inference
        self._shared_memory = shared_memory

    def handler(self) -> Any:
        """What a gRPC server is given. A message that can't be parsed is the client's fault, not INTERNAL."""
        methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
        return grpc.method_handlers_generic_handler(SERVICE, {method.name: self._method(method) for method in methods})

    def _method(self, method: Any) -> Any:
        if method.name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream, parse, _serialize)
        known: Reply | None = getattr(self, method.name, None)
        reply = _unsupported if known is None else _answering(known, method.name)
        read = parse if method.name == "ModelInfer" else _parser(GetMessageClass(method.input_type))
        return grpc.unary_unary_rpc_method_handler(reply, read, _serialize)

    async def ServerLive(self, request: Any) -> Any:  # noqa: N802
        """The process runs."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:  # noqa: N802
        """All models are loaded."""
        return service_pb2.ServerReadyResponse(ready=self._repository.ready)

    async def ModelReady(self, request: Any) -> Any:  # noqa: N802
        """The model is loaded."""
        try:
            self._repository.find(request.name, request.version)
        except RequestFault as fault:
            if fault.kind is Kind.NOT_FOUND:
                raise
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any) -> Any:  # noqa: N802
        """Name, version, extensions."""
        return service_pb2.ServerMetadataResponse(**server_metadata())

    async def ModelMetadata(self, request: Any) -> Any:  # noqa: N802
        """Inputs and outputs."""
        return service_pb2.ModelMetadataResponse(**self._repository.find(request.name, request.version).metadata())

    async def ModelConfig(self, request: Any) -> Any:  # noqa: N802
        """Triton's model configuration."""
        config = self._repository.find(request.name, request.version).config()
        return json_format.ParseDict({"config": config}, service_pb2.ModelConfigResponse())

    async def ModelStatistics(self, request: Any) -> Any:  # noqa: N802
        """Counters of one model, or of all without a name."""
        entries = self._repository.entries.values()
        models = (
            [self._repository.find(request.name, request.version)]
            if request.name
            else [entry.model for entry in entries if entry.model is not None]
        )
        return service_pb2.ModelStatisticsResponse(model_stats=[model.statistics() for model in models])

    async def RepositoryIndex(self, request: Any) -> Any:  # noqa: N802
        """All models and their states."""
        return service_pb2.RepositoryIndexResponse(models=self._repository.index(request.ready))

    async def RepositoryModelLoad(self, request: Any) -> Any:  # noqa: N802
        """Load a model, or load it again."""
        if request.parameters:
            raise RequestFault(Kind.UNSUPPORTED, "load: a bundle is loaded as it is; expected no parameters")
        await self._repository.load(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any) -> Any:  # noqa: N802
        """Take a model out of service."""
        await self._repository.unload(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(self, request: Any) -> Any:  # noqa: N802
        """The registered regions."""
        regions = {region.name: region.to_json() for region in self._shared_memory.status(request.name)}
        return service_pb2.SystemSharedMemoryStatusResponse(regions=regions)

    async def SystemSharedMemoryRegister(self, request: Any) -> Any:  # noqa: N802
        """Register a region."""
        self._shared_memory.register(request.name, request.key, request.offset, request.byte_size)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request: Any) -> Any:  # noqa: N802
        """Unregister a region, or all without a name."""
        self._shared_memory.unregister(request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    async def ModelInfer(self, request: Received, time_left_s: float | None = None) -> Any:  # noqa: N802
        """One inference."""
        return write_response(await self._inference.infer(read_request(request), time_left_s))

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """ModelStreamInfer: answers in the order of the requests, faults as messages, some requests at once.

        When the server drains, the stream ends after the requests read so far: a client that only listens would delay
        the end.
        """
        tasks: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(_IN_FLIGHT)

        async def read() -> None:
            async for request in requests:
                await tasks.put(asyncio.ensure_future(self._stream_answer(request)))
            await tasks.put(None)

        async def end() -> None:
            await self._repository.until_draining()
            await tasks.put(None)

        helpers = [asyncio.ensure_future(read()), asyncio.ensure_future(end())]
        task: asyncio.Task[Any] | None = None
        try:
            while (task := await tasks.get()) is not None:
                yield await task
        finally:
            for helper in helpers:
                helper.cancel()
            left = [] if task is None else [task]
            while not tasks.empty():
                left += [waiting for waiting in [tasks.get_nowait()] if waiting is not None]
            for waiting in left:
                waiting.cancel()

    async def _stream_answer(self, request: Received | None) -> Any:
        try:
            if request is None:
                raise invalid("failed to parse the request: expected a ModelInferRequest")
            return service_pb2.ModelStreamInferResponse(infer_response=await self.ModelInfer(request))
        except Exception as error:
            fault = _logged(error, "ModelStreamInfer")
            answer = service_pb2.ModelInferResponse(id="" if request is None else request.message.id)
            return service_pb2.ModelStreamInferResponse(error_message=str(fault), infer_response=answer)


def _parser(kind: Any) -> Callable[[bytes], Any]:
    """A parser that returns None for anything but a message of this kind."""

    def read(blob: bytes) -> Any:
        try:
            return kind.FromString(blob)
        except DecodeError:
            return None

    return read


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _answering(reply: Reply, name: str) -> Callable[[Any, Any], Awaitable[Any]]:
    """`reply` as gRPC calls it, with every exception answered by a status."""
    with_deadline = name == "ModelInfer"

    async def answer(request: Any, context: Any) -> Any:
        try:
            if request is None:
                raise invalid(f"failed to parse the request of {name}")
            if with_deadline:
                return await reply(request, context.time_remaining())  # type: ignore[call-arg]
            return await reply(request)
        except Exception as error:
            fault = _logged(error, name)
        return await context.abort(getattr(grpc.StatusCode, fault.kind.grpc_code), str(fault))

    return answer


async def _unsupported(request: Any, context: Any) -> Any:
    return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not offer that extension")


def _logged(error: Exception, what: str) -> RequestFault:
    fault = as_fault(error)
    if fault.kind is Kind.INTERNAL:
        _log.error("%s failed", what, exc_info=error)
    else:
        _log.debug("%s: %s", what, fault)
    return fault
