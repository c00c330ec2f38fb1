"""Asking a server of the V2 protocol with tritonclient: targets, requests, and what is made of the answers.

A probe returns a JSON-like answer, so that the answers of two servers can be compared; numbers within a tolerance.
Faults are answered as their HTTP or gRPC status.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import bare_http as web
import numpy as np
import tiny_bundle
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

MODEL, INPUT, OUTPUT = "tiny", "input", "logits"
IMAGES = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(4, seed=5))

Answer = Any
PROBES: dict[str, Callable[["Target"], Answer]] = {}


@dataclass
class Target:
    """A server under test: `host:port` of HTTP and of gRPC."""

    http_url: str
    grpc_url: str

    @cached_property
    def http(self) -> http.InferenceServerClient:
        return http.InferenceServerClient(self.http_url, network_timeout=30, connection_timeout=30)

    @cached_property
    def grpc(self) -> grpc.InferenceServerClient:
        return grpc.InferenceServerClient(self.grpc_url)

    def close(self) -> None:
        self.http.close()
        self.grpc.close()


def probe(do: Callable[[Target], Answer]) -> Callable[[Target], Answer]:
    """Add a probe under its function's name."""
    PROBES[do.__name__] = do
    return do


def ask(name: str, target: Target) -> Answer:
    """The answer of one probe; a fault becomes `{"fault": status}`."""
    try:
        return PROBES[name](target)
    except InferenceServerException as error:
        return {"fault": str(error.status())}


def fault_of(call: Callable[[], Any]) -> str:
    """The status that `call` fails with, or that it did not."""
    try:
        call()
    except InferenceServerException as error:
        return str(error.status())
    return "no fault"


def http_input(images: np.ndarray = IMAGES, binary: bool = True) -> http.InferInput:
    tensor = http.InferInput(INPUT, list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def grpc_input(images: np.ndarray = IMAGES) -> grpc.InferInput:
    tensor = grpc.InferInput(INPUT, list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    return tensor


def head(**changes: Any) -> dict[str, Any]:
    """A JSON request for one image; None leaves a field out."""
    record = {
        "inputs": [
            {"name": INPUT, "shape": [1, 3, 16, 16], "datatype": "FP32", "data": IMAGES[0].ravel().tolist()} | changes
        ]
    }
    record["inputs"][0] = {key: value for key, value in record["inputs"][0].items() if value is not None}
    return record


def post(target: Target, body: bytes | dict[str, Any], headers: dict[str, str] | None = None, path: str = "") -> Any:
    """Status and JSON of a raw POST to infer."""
    blob = json.dumps(body).encode() if isinstance(body, dict) else body
    status, _, answer = web.request(target.http_url, "POST", path or f"/v2/models/{MODEL}/infer", blob, headers or {})
    return status, answer


def status_of_post(target: Target, *args: Any, **kwargs: Any) -> int:
    return post(target, *args, **kwargs)[0]


def get(target: Target, path: str) -> Any:
    status, _, answer = web.request(target.http_url, "GET", path)
    return status, answer


def logits(result: Any) -> Answer:
    return result.as_numpy(OUTPUT).tolist()


def classes(texts: np.ndarray) -> Answer:
    """Shape, and `[value, index, label]` of each string."""
    rows = [text.decode() if isinstance(text, bytes) else text for text in texts.ravel()]
    parts = [row.split(":") for row in rows]
    return [list(texts.shape), [[float(part[0]), *part[1:]] for part in parts]]


def grpc_message() -> Any:
    request = grpc.service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name=INPUT, datatype="FP32", shape=[1, 3, 16, 16])
    return request


def stub(target: Target) -> Any:
    return target.grpc._client_stub


def grpc_status(target: Target, request: Any) -> str:
    import grpc as rpc

    try:
        stub(target).ModelInfer(request, timeout=30)
    except rpc.RpcError as error:
        return str(error.code())
    return "no fault"
