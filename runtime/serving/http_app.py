"""The V2 protocol over HTTP, as an ASGI application."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resnetrt import __version__
from resnetrt.runtime.serving.bodies import compress, read_body
from resnetrt.runtime.serving.faults import Kind, RequestFault, as_fault, invalid
from resnetrt.runtime.serving.inference import Inference
from resnetrt.runtime.serving.json_codec import parse_object, read_request, write_response
from resnetrt.runtime.serving.messages import InferResponse, flag
from resnetrt.runtime.serving.model import ServedModel
from resnetrt.runtime.serving.repository import Repository
from resnetrt.runtime.serving.shared_memory import SharedMemory

_log = logging.getLogger("resnetrt.serve")
_HEAD = "inference-header-content-length"
_IN_THREAD = 64 << 10  # bodies of more bytes are parsed beside the event loop

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
    "system_shared_memory",
)

Handler = Callable[[Request], Awaitable[Response]]


def server_metadata() -> dict[str, Any]:
    """The V2 protocol's server metadata."""
    return {"name": "resnetrt", "version": __version__, "extensions": list(EXTENSIONS)}


class HttpApp:
    """Handlers over one repository; `app` is what a server runs."""

    def __init__(self, repository: Repository, inference: Inference, shared_memory: SharedMemory) -> None:
        self._repository = repository
        self._inference = inference
        self._shared_memory = shared_memory
        self._limits = repository.options.limits
        self.app = Starlette(routes=self._routes(), exception_handlers={HTTPException: _no_route})

    def _routes(self) -> list[Route]:
        get: dict[str, Handler] = {
            "/v2": self._server,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/v2/models/stats": self._all_statistics,
            "/v2/systemsharedmemory/status": self._regions,
            "/v2/systemsharedmemory/region/{region}/status": self._regions,
        }
        post: dict[str, Handler] = {
            "/v2/repository/index": self._index,
            "/v2/repository/models/{model}/load": self._load,
            "/v2/repository/models/{model}/unload": self._unload,
            "/v2/systemsharedmemory/region/{region}/register": self._register,
            "/v2/systemsharedmemory/region/{region}/unregister": self._unregister,
            "/v2/systemsharedmemory/unregister": self._unregister,
        }
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            get |= {
                prefix: self._metadata,
                f"{prefix}/ready": self._model_ready,
                f"{prefix}/config": self._config,
                f"{prefix}/stats": self._statistics,
            }
            post[f"{prefix}/infer"] = self._infer
        pairs = [("GET", get), ("POST", post)]
        return [Route(path, _answering(do), methods=[verb]) for verb, table in pairs for path, do in table.items()]

    async def _server(self, request: Request) -> Response:
        return _json(server_metadata())

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        models = {
            name: {"ready": True, **entry.model.facts()} if entry.model else {"ready": False, "reason": entry.reason}
            for name, entry in self._repository.entries.items()
        }
        ready = self._repository.ready
        return _json({"ready": ready, "models": models}, 200 if ready else Kind.UNAVAILABLE.http_status)

    async def _model_ready(self, request: Request) -> Response:
        self._model(request)
        return Response()

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        return _json(model.metadata() | {"parameters": model.facts()})

    async def _config(self, request: Request) -> Response:
        return _json(self._model(request).config())

    async def _statistics(self, request: Request) -> Response:
        return _json({"model_stats": [self._model(request).statistics()]})

    async def _all_statistics(self, request: Request) -> Response:
        models = [entry.model for entry in self._repository.entries.values()]
        return _json({"model_stats": [model.statistics() for model in models if model is not None]})

    async def _index(self, request: Request) -> Response:
        options = await self._object(request)
        return _json(self._repository.index(flag(options, "ready", False)))

    async def _load(self, request: Request) -> Response:
        options = await self._object(request)
        if options.get("parameters"):
            raise RequestFault(Kind.UNSUPPORTED, "load: a bundle is loaded as it is; expected no parameters")
        await self._repository.load(request.path_params["model"])
        return Response()

    async def _unload(self, request: Request) -> Response:
        await self._object(request)
        await self._repository.unload(request.path_params["model"])
        return Response()

    async def _regions(self, request: Request) -> Response:
        name = request.path_params.get("region", "")
        return _json([region.to_json() for region in self._shared_memory.status(name)])

    async def _register(self, request: Request) -> Response:
        given = await self._object(request)
        key, offset, size = given.get("key"), given.get("offset", 0), given.get("byte_size")
        if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
            raise invalid("register: expected key (text), offset and byte_size (integers)")
        self._shared_memory.register(request.path_params["region"], key, offset, size)
        return Response()

    async def _unregister(self, request: Request) -> Response:
        await self._object(request)
        self._shared_memory.unregister(request.path_params.get("region", ""))
        return Response()

    async def _infer(self, request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version", "")
        self._repository.find(model, version)  # before the body is read
        body = await read_body(request, self._limits)
        head = request.headers.get(_HEAD)
        if (int(head) if head and head.isdecimal() and len(head) < 12 else len(body)) > _IN_THREAD:
            parsed = await asyncio.to_thread(read_request, body, head, model, version)
        else:
            parsed = read_request(body, head, model, version)
        answer = await _unless_gone(request, self._inference.infer(parsed))
        binary = flag(parsed.parameters, "binary_data_output", False)
        encoded, length = write_response(answer, binary)
        headers = {} if length is None else {_HEAD: str(length)}
        encoded, encoding = compress(encoded, request.headers.get("accept-encoding", ""))
        headers |= {"content-encoding": encoding} if encoding else {}
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(encoded, headers=headers, media_type=kind)

    def _model(self, request: Request) -> ServedModel:
        return self._repository.find(request.path_params["model"], request.path_params.get("version", ""))

    async def _object(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body; an empty one if there is no body."""
        body = await read_body(request, self._limits)
        return parse_object(body) if body.strip() else {}


def _json(record: Any, status: int = 200) -> Response:
    return Response(json.dumps(record), status, media_type="application/json")


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": f"{request.method} {request.url.path[:200]}: {error.detail}"}, error.status_code)


def _answering(handler: Handler) -> Handler:
    """`handler`, with every exception answered as V2 does."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            fault = as_fault(error)
            if fault.kind is Kind.INTERNAL:
                _log.exception("%s %s failed", request.method, request.url.path)
            else:
                _log.debug("%s %s: %s", request.method, request.url.path, fault)
            return _json({"error": str(fault)}, fault.kind.http_status)

    return answer


async def _unless_gone(request: Request, work: Any) -> InferResponse:
    """The result of `work`, which is cancelled if the client goes away before it is there."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestFault(Kind.INVALID, "the client went away")
        response: InferResponse = task.result()
        return response
    finally:
        task.cancel()
        gone.cancel()
