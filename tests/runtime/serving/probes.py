"""What a client of the V2 protocol may expect, asked with tritonclient of whatever server is at the URLs.

The server has one model, `tiny` (tiny_bundle's network, FP32, up to 8 images in a batch, labels), and lets clients load
and unload it. Each probe returns a JSON-like answer, so that the answers of two servers can be compared; numbers within
a tolerance. Faults are answered as their HTTP or gRPC status.
"""

import gzip
import json
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from queue import Queue
from typing import Any

import bare_http as web
import numpy as np
import tiny_bundle
from google.protobuf import json_format
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException, shared_memory

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


# health, metadata


@probe
def live_and_ready_over_http(target: Target) -> Answer:
    return [target.http.is_server_live(), target.http.is_server_ready(), target.http.is_model_ready(MODEL)]


@probe
def live_and_ready_over_grpc(target: Target) -> Answer:
    return [target.grpc.is_server_live(), target.grpc.is_server_ready(), target.grpc.is_model_ready(MODEL, "1")]


@probe
def grpc_health_service(target: Target) -> Answer:
    import grpc as rpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with rpc.insecure_channel(target.grpc_url) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30).status


@probe
def an_unknown_model_is_not_ready(target: Target) -> Answer:
    return target.http.is_model_ready("nothing")


@probe
def server_metadata_has_the_fields(target: Target) -> Answer:
    return sorted(target.http.get_server_metadata())


@probe
def needed_extensions_are_listed(target: Target) -> Answer:
    needed = {"classification", "model_configuration", "statistics", "binary_tensor_data", "system_shared_memory"}
    return sorted(needed & set(target.http.get_server_metadata()["extensions"]))


@probe
def extensions_over_grpc_are_those_of_http(target: Target) -> Answer:
    found = set(target.grpc.get_server_metadata().extensions)
    return found == set(target.http.get_server_metadata()["extensions"])


@probe
def model_metadata_over_http(target: Target) -> Answer:
    found = target.http.get_model_metadata(MODEL)
    return {key: found[key] for key in ("name", "versions", "inputs", "outputs")}


@probe
def model_metadata_over_grpc(target: Target) -> Answer:
    found = target.grpc.get_model_metadata(MODEL, "1", as_json=True)
    return {key: found[key] for key in ("name", "versions", "inputs", "outputs")}


@probe
def metadata_of_a_version(target: Target) -> Answer:
    return target.http.get_model_metadata(MODEL, "1")["name"]


@probe
def metadata_of_an_unknown_version(target: Target) -> Answer:
    return [
        fault_of(lambda: target.http.get_model_metadata(MODEL, "7")),
        fault_of(lambda: target.grpc.get_model_metadata(MODEL, "7")),
    ]


@probe
def config_over_http(target: Target) -> Answer:
    found = target.http.get_model_config(MODEL)
    return [
        found["name"],
        found["max_batch_size"],
        [(item["name"], item["data_type"], item["dims"]) for item in found["input"] + found["output"]],
        "preferred_batch_size" in found["dynamic_batching"],
    ]


@probe
def config_over_grpc(target: Target) -> Answer:
    found = target.grpc.get_model_config(MODEL).config
    return [
        found.name,
        found.max_batch_size,
        [(item.name, item.data_type, list(item.dims)) for item in [*found.input, *found.output]],
    ]


@probe
def statistics_count_requests_images_and_batches(target: Target) -> Answer:
    before = target.http.get_inference_statistics(MODEL)["model_stats"][0]
    target.http.infer(MODEL, [http_input()])
    after = target.grpc.get_inference_statistics(MODEL).model_stats[0]
    stats = after.inference_stats
    steps = {getattr(stats, name).count for name in ("queue", "compute_input", "compute_infer", "compute_output")}
    return [
        after.inference_count - before["inference_count"],
        after.execution_count - before["execution_count"],
        stats.success.count - before["inference_stats"]["success"]["count"],
        len(steps),
        sorted(before),
        sorted(before["inference_stats"]),
        [row.batch_size for row in after.batch_stats if row.batch_size == len(IMAGES)],
    ]


@probe
def statistics_of_all_models(target: Target) -> Answer:
    return [row["name"] for row in target.http.get_inference_statistics()["model_stats"]]


# inference over HTTP


@probe
def json_in_and_out(target: Target) -> Answer:
    outputs = [http.InferRequestedOutput(OUTPUT, binary_data=False)]
    return logits(target.http.infer(MODEL, [http_input(binary=False)], outputs=outputs))


@probe
def json_in_with_nested_data(target: Target) -> Answer:
    status, answer = post(target, head(data=IMAGES[:1].tolist()))
    return [status, json.loads(answer)["outputs"]]


@probe
def binary_in_and_out(target: Target) -> Answer:
    return logits(target.http.infer(MODEL, [http_input()], outputs=[http.InferRequestedOutput(OUTPUT)]))


@probe
def binary_in_json_out(target: Target) -> Answer:
    outputs = [http.InferRequestedOutput(OUTPUT, binary_data=False)]
    return logits(target.http.infer(MODEL, [http_input()], outputs=outputs))


@probe
def no_outputs_asked_for_gives_all(target: Target) -> Answer:
    response = target.http.infer(MODEL, [http_input()]).get_response()
    return [(item["name"], item["datatype"], item["shape"], item["parameters"]) for item in response["outputs"]]


@probe
def the_id_comes_back(target: Target) -> Answer:
    response = target.http.infer(MODEL, [http_input()], request_id="a-1").get_response()
    return [response["id"], response["model_name"], response["model_version"]]


@probe
def no_id_gives_none(target: Target) -> Answer:
    return "id" in target.http.infer(MODEL, [http_input()]).get_response()


@probe
def a_version_can_be_named(target: Target) -> Answer:
    return logits(target.http.infer(MODEL, [http_input()], model_version="1"))


@probe
def gzip_request(target: Target) -> Answer:
    return logits(target.http.infer(MODEL, [http_input()], request_compression_algorithm="gzip"))


@probe
def deflate_request(target: Target) -> Answer:
    return logits(target.http.infer(MODEL, [http_input()], request_compression_algorithm="deflate"))


@probe
def gzip_response(target: Target) -> Answer:
    return logits(target.http.infer(MODEL, [http_input()], response_compression_algorithm="gzip"))


@probe
def deflate_response(target: Target) -> Answer:
    return logits(target.http.infer(MODEL, [http_input()], response_compression_algorithm="deflate"))


@probe
def a_response_is_compressed_where_asked(target: Target) -> Answer:
    found = []
    for name, unpack in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        body, path = json.dumps(head()).encode(), f"/v2/models/{MODEL}/infer"
        _, headers, answer = web.request(target.http_url, "POST", path, body, {"Accept-Encoding": name})
        found.append([headers["content-encoding"], json.loads(unpack(answer))["model_name"]])
    return found


@probe
def classification_over_http(target: Target) -> Answer:
    outputs = [http.InferRequestedOutput(OUTPUT, class_count=3)]
    return classes(target.http.infer(MODEL, [http_input()], outputs=outputs).as_numpy(OUTPUT))


@probe
def classification_as_json(target: Target) -> Answer:
    outputs = [http.InferRequestedOutput(OUTPUT, binary_data=False, class_count=1)]
    return classes(target.http.infer(MODEL, [http_input()], outputs=outputs).as_numpy(OUTPUT))


@probe
def more_classes_than_there_are(target: Target) -> Answer:
    outputs = [grpc.InferRequestedOutput(OUTPUT, class_count=99)]
    return list(target.grpc.infer(MODEL, [grpc_input()], outputs=outputs).as_numpy(OUTPUT).shape)


@probe
def many_requests_at_once(target: Target) -> Answer:
    with http.InferenceServerClient(target.http_url, concurrency=8) as client:
        waiting = [client.async_infer(MODEL, [http_input(IMAGES[i % 4 : i % 4 + 1])]) for i in range(24)]
        return [logits(item.get_result()) for item in waiting]


# inference over gRPC


@probe
def infer_over_grpc(target: Target) -> Answer:
    result = target.grpc.infer(MODEL, [grpc_input()], request_id="7", outputs=[grpc.InferRequestedOutput(OUTPUT)])
    response = result.get_response()
    return [logits(result), response.id, response.model_name, response.model_version, len(response.raw_output_contents)]


@probe
def infer_over_grpc_compressed(target: Target) -> Answer:
    return [
        logits(target.grpc.infer(MODEL, [grpc_input()], compression_algorithm=name)) for name in ("gzip", "deflate")
    ]


@probe
def typed_contents_over_grpc(target: Target) -> Answer:
    request = grpc_message()
    request.inputs[0].contents.fp32_contents.extend(IMAGES[:1].ravel())
    response = stub(target).ModelInfer(request, timeout=30)
    return np.frombuffer(response.raw_output_contents[0], np.float32).tolist()


@probe
def classification_over_grpc(target: Target) -> Answer:
    outputs = [grpc.InferRequestedOutput(OUTPUT, class_count=2)]
    return classes(target.grpc.infer(MODEL, [grpc_input()], outputs=outputs).as_numpy(OUTPUT))


@probe
def grpc_stream(target: Target) -> Answer:
    """Three answers and a fault between them; the fault does not end the stream."""
    answers: Queue[Any] = Queue()
    with grpc.InferenceServerClient(target.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for index in range(4):
            name = MODEL if index != 1 else "nothing"
            client.async_stream_infer(name, [grpc_input(IMAGES[index : index + 1])], request_id=str(index))
        got = [answers.get(timeout=30) for _ in range(4)]
    done = sorted((item.get_response().id, logits(item)) for item, error in got if error is None)
    return [done, sum(error is not None for _, error in got)]


# faults


@probe
def malformed_json(target: Target) -> Answer:
    return status_of_post(target, b'{"inputs": [')


@probe
def json_that_is_no_object(target: Target) -> Answer:
    return status_of_post(target, b"[1, 2]")


@probe
def no_inputs(target: Target) -> Answer:
    return [status_of_post(target, {}), status_of_post(target, {"inputs": []})]


@probe
def an_unknown_model(target: Target) -> Answer:
    return [
        fault_of(lambda: target.http.infer("nothing", [http_input()])),
        fault_of(lambda: target.grpc.infer("nothing", [grpc_input()])),
    ]


@probe
def an_unknown_input(target: Target) -> Answer:
    return status_of_post(target, head(name="other"))


@probe
def an_unknown_output(target: Target) -> Answer:
    return [
        fault_of(lambda: target.http.infer(MODEL, [http_input()], outputs=[http.InferRequestedOutput("other")])),
        fault_of(lambda: target.grpc.infer(MODEL, [grpc_input()], outputs=[grpc.InferRequestedOutput("other")])),
    ]


@probe
def a_wrong_shape(target: Target) -> Answer:
    bad = IMAGES[:, :, :8]
    return [
        fault_of(lambda: target.http.infer(MODEL, [http_input(np.ascontiguousarray(bad))])),
        fault_of(lambda: target.grpc.infer(MODEL, [grpc_input(np.ascontiguousarray(bad))])),
    ]


@probe
def a_wrong_datatype(target: Target) -> Answer:
    return status_of_post(target, head(datatype="INT32", data=[1] * 768))


@probe
def too_large_a_batch(target: Target) -> Answer:
    large = np.repeat(IMAGES, 3, 0)
    return [
        fault_of(lambda: target.http.infer(MODEL, [http_input(large)])),
        fault_of(lambda: target.grpc.infer(MODEL, [grpc_input(large)])),
    ]


@probe
def data_of_another_length_than_the_shape(target: Target) -> Answer:
    return [status_of_post(target, head(data=[0.5] * count)) for count in (767, 769)]


@probe
def binary_data_cut_short(target: Target) -> Answer:
    record = head(data=None, parameters={"binary_data_size": 3072})
    blob = json.dumps(record).encode()
    headers = {"Inference-Header-Content-Length": str(len(blob))}
    return [status_of_post(target, blob + bytes(size), headers) for size in (0, 3071)]


@probe
def a_header_length_past_the_end(target: Target) -> Answer:
    return status_of_post(target, head(), {"Inference-Header-Content-Length": "99999999"})


@probe
def raw_contents_of_another_length(target: Target) -> Answer:
    request = grpc_message()
    request.raw_input_contents.append(bytes(3071))
    return grpc_status(target, request)


@probe
def no_contents_over_grpc(target: Target) -> Answer:
    return grpc_status(target, grpc_message())


@probe
def a_damaged_gzip_body(target: Target) -> Answer:
    return status_of_post(target, b"no gzip", {"Content-Encoding": "gzip"})


@probe
def a_path_that_does_not_exist(target: Target) -> Answer:
    return [get(target, "/v2/nothing")[0], get(target, "/v3")[0]]


# repository


@probe
def repository_index(target: Target) -> Answer:
    rows = target.http.get_model_repository_index()
    over_grpc = target.grpc.get_model_repository_index().models
    return [[(row["name"], row["version"], row["state"]) for row in rows], [(row.name, row.state) for row in over_grpc]]


@probe
def load_again_and_answer(target: Target) -> Answer:
    target.http.load_model(MODEL)
    over_http = logits(target.http.infer(MODEL, [http_input()]))
    target.grpc.load_model(MODEL)
    return [over_http, logits(target.grpc.infer(MODEL, [grpc_input()]))]


@probe
def unload_and_load(target: Target) -> Answer:
    target.http.unload_model(MODEL)
    states = ["UNLOADING"]
    while states == ["UNLOADING"]:  # Triton answers before it is done
        time.sleep(0.05)
        states = [row["state"] for row in target.http.get_model_repository_index()]
    gone = [target.http.is_model_ready(MODEL), target.http.is_server_ready()]
    refused = fault_of(lambda: target.http.infer(MODEL, [http_input()]))
    target.http.load_model(MODEL)
    return [gone, states, refused != "no fault", target.http.is_model_ready(MODEL)]


@probe
def load_an_unknown_model(target: Target) -> Answer:
    return [fault_of(lambda: target.http.load_model("nothing")) != "no fault", target.http.is_model_ready(MODEL)]


# shared memory


@probe
def shared_memory_over_http(target: Target) -> Answer:
    with Region(target.http, http) as region:
        return region.go_through()


@probe
def shared_memory_over_grpc(target: Target) -> Answer:
    with Region(target.grpc, grpc) as region:
        return region.go_through()


@probe
def an_output_region_that_is_too_small(target: Target) -> Answer:
    with Region(target.http, http) as over_http, Region(target.grpc, grpc) as over_grpc:
        return [fault_of(lambda: over_http.infer(16)), fault_of(lambda: over_grpc.infer(16))]


@probe
def an_unknown_shared_memory_region(target: Target) -> Answer:
    tensor = http.InferInput(INPUT, list(IMAGES.shape), "FP32")
    tensor.set_shared_memory("nothing", IMAGES.nbytes)
    return fault_of(lambda: target.http.infer(MODEL, [tensor]))


@probe
def a_shared_memory_object_that_is_not_there(target: Target) -> Answer:
    return fault_of(lambda: target.http.register_system_shared_memory("r", f"/{uuid.uuid4().hex}", 64))


class Region:
    """A registered region with the images, and room for the output behind them."""

    def __init__(self, client: Any, module: Any) -> None:
        self.client, self.module = client, module
        self.name = f"probe_{uuid.uuid4().hex}"

    def __enter__(self) -> "Region":
        self.handle = shared_memory.create_shared_memory_region(self.name, f"/{self.name}", IMAGES.nbytes + 160)
        shared_memory.set_shared_memory_region(self.handle, [IMAGES])
        self.register()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.unregister_system_shared_memory(self.name)
        shared_memory.destroy_shared_memory_region(self.handle)

    def register(self) -> None:
        self.client.register_system_shared_memory(self.name, f"/{self.name}", IMAGES.nbytes + 160)

    def infer(self, output_bytes: int = 160) -> Any:
        tensor = self.module.InferInput(INPUT, list(IMAGES.shape), "FP32")
        tensor.set_shared_memory(self.name, IMAGES.nbytes)
        output = self.module.InferRequestedOutput(OUTPUT)
        output.set_shared_memory(self.name, output_bytes, offset=IMAGES.nbytes)
        return self.client.infer(MODEL, [tensor], outputs=[output])

    def go_through(self) -> Answer:
        """What was computed, the faults of registering twice and of using what is gone."""
        again = fault_of(self.register)
        registered = bool(self.client.get_system_shared_memory_status(self.name))
        response = self.infer().get_response()
        if not isinstance(response, dict):
            response = json_format.MessageToDict(response, preserving_proto_field_name=True)
        found = shared_memory.get_contents_as_numpy(self.handle, np.float32, [4, 10], offset=IMAGES.nbytes).tolist()
        self.client.unregister_system_shared_memory(self.name)
        return [response, found, again, registered, fault_of(self.infer)]


def classes(found: np.ndarray) -> Answer:
    """Shape, and `[value, index, label]` of each string."""
    rows = [text.decode() if isinstance(text, bytes) else text for text in found.ravel()]
    parts = [row.split(":") for row in rows]
    return [list(found.shape), [[float(part[0]), *part[1:]] for part in parts]]


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
