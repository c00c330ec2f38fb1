"""Probes of inference that succeeds, over HTTP and over gRPC."""

import gzip
import json
import zlib
from queue import Queue
from typing import Any

import bare_http as web
import numpy as np
from probing import (
    IMAGES,
    MODEL,
    OUTPUT,
    Answer,
    Target,
    classes,
    grpc_input,
    grpc_message,
    head,
    http_input,
    logits,
    post,
    probe,
    stub,
)
from tritonclient import grpc, http


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
    answers = []
    for name, unpack in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        body, path = json.dumps(head()).encode(), f"/v2/models/{MODEL}/infer"
        _, headers, answer = web.request(target.http_url, "POST", path, body, {"Accept-Encoding": name})
        answers.append([headers["content-encoding"], json.loads(unpack(answer))["model_name"]])
    return answers


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
