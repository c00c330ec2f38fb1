"""A few bytes that stand for millions of elements cost the server, and everyone else's requests, next to nothing."""

import contextlib
import json
import os
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path

import bare_http
import probes
import pytest
from tritonclient.grpc import service_pb2

from resnetrt.runtime.serving import datatypes
from resnetrt.runtime.serving.faults import RequestFault
from resnetrt.runtime.serving.grpc_codec import parse, read_request

INFER = f"/v2/models/{probes.MODEL}/infer"
MANY = 3_000_000
COUNTED = 'nv_inference_count{model="tiny",version="1"}'


def message(**given) -> bytes:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", **given)
    return service_pb2.ModelInferRequest(model_name="tiny", inputs=[tensor]).SerializeToString()


@pytest.mark.parametrize("field", [b"\x3a\x00", b"\x2a\x00", b"\x32\x00"], ids=["contents", "inputs", "outputs"])
def test_empty_fields_are_not_counted_to_the_end(field):
    assert parse(field * MANY) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shape": [1] * MANY}, f"expected a shape of up to 16 axes, found {MANY} of them"),
        ({"parameters": {str(i): service_pb2.InferParameter(bool_param=True) for i in range(99)}}, "at most 64"),
    ],
)
def test_more_axes_and_parameters_than_a_request_needs_are_refused(given, words):
    with pytest.raises(RequestFault, match=words):
        read_request(parse(message(**given)))


def test_typed_contents_are_counted_before_they_are_converted():
    contents = service_pb2.InferTensorContents(fp32_contents=[0.0] * 1000)
    values = read_request(parse(message(shape=[MANY], contents=contents))).inputs[0].values
    with pytest.raises(RequestFault, match=f"expected {MANY} numbers, found 1000"):
        datatypes.from_values(values, "float32", (MANY,))
    assert datatypes.from_values(values, "float32", (10, 100)).shape == (10, 100)


@pytest.mark.parametrize("values", [[0] * 783 + ["x" * 100_000], [[0] * 784, ["x" * 100_000] * 784]])
def test_a_long_string_among_numbers_takes_no_memory(values):
    tracemalloc.start()
    try:
        with pytest.raises(RequestFault, match="expected numbers"):
            datatypes.from_values(values, "float32", (len(values), 784) if isinstance(values[0], list) else (784,))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_deeply_nested_data_are_refused_without_following_them():
    values = 0
    for _ in range(900):
        values = [values]
    with pytest.raises(RequestFault, match="nested as shape"):
        datatypes.from_values(values, "float32", (1, 1))


def test_images_are_counted_while_they_are_split():
    with pytest.raises(RequestFault, match="expected 2 elements, found more"):
        datatypes.split_bytes(bytes(4 * MANY), 2)
    assert datatypes.split_bytes(bytes(8), 2) == [b"", b""]


@contextlib.contextmanager
def sparse(server, size: int) -> Iterator[str]:
    """A registered region of `size` bytes that takes no memory."""
    key = uuid.uuid4().hex
    path = Path("/dev/shm") / key
    path.touch()
    os.truncate(path, size)
    try:
        registered = json.dumps({"key": f"/{key}", "offset": 0, "byte_size": size}).encode()
        url = f"/v2/systemsharedmemory/region/{key}"
        assert bare_http.request(server.http, "POST", f"{url}/register", registered)[0] == 200
        yield key
        bare_http.request(server.http, "POST", f"{url}/unregister", b"")
    finally:
        path.unlink()


def place(region: str, size: int) -> dict:
    return {"parameters": {"shared_memory_region": region, "shared_memory_byte_size": size}}


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_no_more_of_a_region_is_read_than_the_input_needs(server, datatype):
    size = 3 << 30
    with sparse(server, size) as region:
        shape = list(probes.IMAGES.shape) if datatype == "FP32" else [1]
        tensor = {"name": "input", "datatype": datatype, "shape": shape} | place(region, size)
        status, _, body = bare_http.request(server.http, "POST", INFER, json.dumps({"inputs": [tensor]}).encode())
    assert status == 400
    assert f"bytes in shared memory, found {size}" in json.loads(body)["error"]
    peak = next(x for x in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if "VmHWM" in x)
    assert int(peak.split()[1]) < 2 << 20  # KiB


@pytest.mark.parametrize(
    ("size", "words"), [(8, "the request gives 8"), (1 << 20, "expected a part of its 4096 bytes")]
)
def test_a_place_for_the_output_is_checked_before_the_engine_runs(server, size, words):
    before = server.scrape()[COUNTED]
    with sparse(server, 4096) as region:
        body = json.dumps(probes.head() | {"outputs": [{"name": "logits"} | place(region, size)]}).encode()
        status, _, answer = bare_http.request(server.http, "POST", INFER, body)
    assert status == 400
    assert words in json.loads(answer)["error"]
    assert server.scrape()[COUNTED] == before
