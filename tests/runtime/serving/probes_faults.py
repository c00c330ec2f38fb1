"""Probes of requests that are refused."""

import json

import numpy as np
from probing import (
    IMAGES,
    MODEL,
    Answer,
    Target,
    fault_of,
    get,
    grpc_input,
    grpc_message,
    grpc_status,
    head,
    http_input,
    probe,
    status_of_post,
)
from tritonclient import grpc, http


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
