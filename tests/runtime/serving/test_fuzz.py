"""Requests made of noise: whatever comes is answered with a fault of the client, and the server stays as it was.

RESNETRT_FUZZ_EXAMPLES sets the number of requests of each kind; the default is small.
"""

import json
import os
import re
from pathlib import Path

import bare_http
import grpc
import numpy as np
import probes
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

EXAMPLES = int(os.environ.get("RESNETRT_FUZZ_EXAMPLES", "25"))
INFER = f"/v2/models/{probes.MODEL}/infer"
METHODS = sorted(
    method.name
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    if method.name != "ModelStreamInfer"
)
PARTS = (
    f"v2 models {probes.MODEL} versions 1 config stats infer ready .. %00 health region register status index".split()
)
# what a fault of the client may be answered with; CANCELLED and UNAVAILABLE are not among them
CLIENT_FAULTS = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"}

fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars, lambda item: st.lists(item, max_size=3) | st.dictionaries(st.text(max_size=6), item, max_size=3)
)
words = st.sampled_from([probes.INPUT, probes.OUTPUT, "FP32", "BYTES", "FP16", "", "1"]) | st.text(max_size=8)
NAMES = """binary_data_size binary_data binary_data_output classification timeout priority sequence_id
shared_memory_region shared_memory_byte_size shared_memory_offset"""
names = st.sampled_from(NAMES.split())
parameters = st.dictionaries(names, scalars | st.sampled_from([3072, 0, 1, -1, True]), max_size=3)
shapes = st.just([1, 3, 16, 16]) | st.lists(st.integers(-2, 300) | st.integers(), max_size=6)
data = st.just([0.5] * 768) | st.lists(scalars, max_size=5) | json_values


@st.composite
def requests(draw):
    """A JSON request that is right in most places."""
    record = {"name": draw(words), "shape": draw(shapes), "datatype": draw(words), "data": draw(data)}
    if draw(st.booleans()):
        record |= {"name": probes.INPUT, "datatype": "FP32"}
    if draw(st.booleans()):
        record["parameters"] = draw(parameters | json_values)
    for key in draw(st.lists(st.sampled_from(sorted(record)), max_size=1)):
        del record[key]
    request = {"inputs": draw(st.just([record]) | st.just([record, record]) | json_values)}
    if draw(st.booleans()):
        request["outputs"] = draw(json_values | st.lists(st.builds(_output, words, parameters), max_size=2))
    if draw(st.booleans()):
        request |= {"id": draw(scalars), "parameters": draw(parameters | json_values)}
    return request


def _output(name, given_parameters):
    return {"name": name, "parameters": given_parameters}


def rss_of(process_id: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process_id}/status").read_text())[1]) >> 10


@pytest.fixture(scope="module", autouse=True)
def unharmed(server):
    """After the fuzzing the server still answers rightly, has logged no internal error and has not grown much."""
    before = rss_of(server.process.pid)
    yield
    target = probes.Target(server.http, server.grpc)
    try:
        assert target.http.is_server_ready()
        assert np.shape(probes.ask("binary_in_and_out", target)) == (4, 10)
        assert np.shape(probes.ask("infer_over_grpc", target)[0]) == (4, 10)
    finally:
        target.close()
    assert [row for row in server.logged() if row["level"] == "error"] == []
    assert rss_of(server.process.pid) - before < 200, "the server grew by more than 200 MiB"


def check(answer: tuple[int, dict[str, str], bytes]) -> None:
    status, _, body = answer
    assert status < 500 or status == 501, (status, body)
    if status >= 400 and body:
        assert json.loads(body)["error"], body


@fuzz
@given(
    body=st.binary(max_size=300),
    length=st.none() | st.integers(-5, 400).map(str) | st.text("0123456789+-. e", max_size=8),
)
def test_bodies_of_noise(server, body, length):
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = bare_http.request(server.http, "POST", INFER, body, headers)
    check(answer)
    assert answer[0] == 400


@fuzz
@given(request=requests())
def test_json_of_any_structure(server, request):
    check(bare_http.request(server.http, "POST", INFER, json.dumps(request).encode()))


@fuzz
@given(
    size=st.integers(0, 4000) | st.just(3072),
    said=st.integers(-10, 5000) | st.just(3072),
    off=st.integers(-3, 3) | st.just(0),
    shape=shapes,
    datatype=words,
)
def test_binary_sizes(server, size, said, off, shape, datatype):
    record = probes.head(data=None, parameters={"binary_data_size": said}, shape=shape, datatype=datatype)
    head = json.dumps(record).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) + off)}
    check(bare_http.request(server.http, "POST", INFER, head + bytes(size), headers))


@fuzz
@given(
    encoding=st.sampled_from(["gzip", "deflate", "identity", "br", ""]) | st.text("abc,;=q01 ", max_size=8),
    accepted=st.sampled_from(["gzip", "deflate;q=0", "*", "gzip;q=0.5, deflate"])
    | st.text("abgzip,;=q.01 ", max_size=12),
    kind=st.text("abc/;=", max_size=12),
    body=st.binary(max_size=40) | st.just(json.dumps(probes.head()).encode()),
)
def test_headers(server, encoding, accepted, kind, body):
    headers = {"Content-Encoding": encoding, "Accept-Encoding": accepted, "Content-Type": kind}
    check(bare_http.request(server.http, "POST", INFER, body, headers))


@fuzz
@given(
    blob=st.binary(max_size=200),
    start=st.sampled_from([b"", b"GET ", b"POST /v2 HTTP/1.1\r\n", b"POST " + INFER.encode()]),
)
def test_bytes_that_are_no_http(server, blob, start):
    answer = bare_http.raw(server.http, start + blob)
    assert not answer or int(answer.split()[1]) < 500, answer


@fuzz
@given(
    verb=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    parts=st.lists(st.sampled_from(PARTS) | st.text("abc%/.é", max_size=4), max_size=6),
    body=st.just(b"") | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_paths(server, verb, parts, body):
    path = "/" + "/".join(part.encode("ascii", "ignore").decode() for part in parts)
    check(bare_http.request(server.http, verb, path, body))


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


def call(channel, method: str, blob: bytes) -> None:
    path = f"/inference.GRPCInferenceService/{method}"
    code = "OK"
    try:
        channel.unary_unary(path)(blob, timeout=60)
    except grpc.RpcError as error:
        code = error.code().name
    assert code in CLIENT_FAULTS | {"OK"}


@fuzz
@given(method=st.sampled_from([name for name in METHODS if "Unload" not in name]), blob=st.binary(max_size=120))
def test_protobufs_of_noise(channel, method, blob):
    call(channel, method, blob)


@st.composite
def messages(draw):
    """A ModelInferRequest that is right in most places."""
    request = service_pb2.ModelInferRequest(
        model_name=draw(st.just(probes.MODEL) | words), id=draw(st.text(max_size=5))
    )
    for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
        shape = draw(
            st.just([1, 3, 16, 16]) | st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=5)
        )
        item = request.inputs.add(
            name=draw(st.just(probes.INPUT) | words), datatype=draw(st.just("FP32") | words), shape=shape
        )
        if draw(st.booleans()):
            item.contents.fp32_contents.extend([0.5] * draw(st.sampled_from([768, 767, 0, 1])))
        if draw(st.integers(0, 5)) == 0:
            item.contents.bytes_contents.append(draw(st.binary(max_size=20)))
        _add(draw, item.parameters)
    for _ in range(draw(st.integers(0, 2))):
        output = request.outputs.add(name=draw(st.just(probes.OUTPUT) | words))
        _add(draw, output.parameters)
    for _ in range(draw(st.integers(0, 2))):
        request.raw_input_contents.append(bytes(draw(st.sampled_from([3072, 3071, 0, 4]))))
    _add(draw, request.parameters)
    return request.SerializeToString()


def _add(draw, fields) -> None:
    for name in draw(st.lists(names, max_size=2)):
        which = draw(st.sampled_from(["bool_param", "int64_param", "string_param", "double_param", "uint64_param", ""]))
        if which == "":
            fields[name].SetInParent()
            continue
        value = {"bool_param": True, "string_param": "x", "double_param": 0.5}.get(
            which, draw(st.integers(0, 2**63 - 1))
        )
        setattr(fields[name], which, value)


@fuzz
@given(blob=messages(), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=2))
def test_protobufs_that_are_nearly_right(channel, blob, flips):
    noisy = bytearray(blob)
    for at, value in flips:
        if noisy:
            noisy[at % len(noisy)] = value
    call(channel, "ModelInfer", bytes(noisy))
