"""Tensor contents and shared memory, without a server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import shared_memory as client_memory

from resnetrt.runtime.serving import datatypes
from resnetrt.runtime.serving.bodies import compress
from resnetrt.runtime.serving.faults import Kind, RequestFault
from resnetrt.runtime.serving.shared_memory import SharedMemory


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bytes_round_trip(elements):
    assert datatypes.split_bytes(datatypes.join_bytes(elements), len(elements)) == elements


@given(st.binary(max_size=30), st.integers(0, 4))
def test_noise_as_bytes_is_refused_or_right(raw, count):
    try:
        texts = datatypes.split_bytes(raw, count)
    except RequestFault:
        return
    assert datatypes.join_bytes(texts) == raw


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([256], "uint8"),
        ([-1], "uint8"),
        ([200], "int8"),
        ([1.0], "uint8"),
        ([True], "float32"),
        (["1"], "float32"),
        ([None], "float32"),
        ([10**400], "float32"),
        ([[1], [2, 3]], "float32"),
        ([1, 2], "float32"),
        ([[1]], "float16"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, dtype):
    with pytest.raises(RequestFault):
        datatypes.from_values(values, dtype, (1,))


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_binary_contents_stay_where_they_were_received(kind):
    received = memoryview(kind(range(7)))
    tensor = datatypes.from_raw(received[1:], "uint8", (2, 3))
    assert tensor.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert np.shares_memory(tensor, np.frombuffer(received, np.uint8))
    assert tensor.flags.writeable  # OpenVINO copies what is not
    with pytest.raises(RequestFault, match="expected 8 bytes"):
        datatypes.from_raw(received[1:], "uint8", (2, 4))


def test_values_that_are_nested_otherwise_are_refused():
    assert datatypes.from_values([[1, 2], [3, 4]], "float32", (2, 2)).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(RequestFault, match=r"as shape \[2, 2\], found \[1, 4\]"):
        datatypes.from_values([[1, 2, 3, 4]], "float32", (2, 2))


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("br, deflate", "deflate"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("gzip;q=0", None),
        ("gzip; q=0.0", None),
        ("gzip;q=0.001", "gzip"),
    ],
)
def test_a_response_is_packed_as_the_client_accepts(accepted, encoding):
    assert compress(bytes(1000), accepted)[1] == encoding
    assert compress(b"short", accepted)[1] is None


@pytest.fixture
def region():
    handle = client_memory.create_shared_memory_region("r", "/resnetrt_test_region", 64)
    memory = SharedMemory(allowed=True)
    yield memory, handle
    memory.close()
    client_memory.destroy_shared_memory_region(handle)


def test_a_region_that_shrinks_after_it_was_registered_is_a_fault_and_no_crash(region):
    memory, _ = region
    memory.register("r", "/resnetrt_test_region", 0, 64)
    with open("/dev/shm/resnetrt_test_region", "r+b") as file:  # noqa: PTH123
        file.truncate(8)
    with pytest.raises(RequestFault, match="expected 64 bytes at 0, found 8"):
        memory.read("r", 0, 64)
    with pytest.raises(RequestFault, match="made smaller"):
        memory.write("r", 0, 64, bytes(64))


@pytest.mark.parametrize("key", ["../etc/passwd", "/../x", "a/b", "", "..", "x\0y"])
def test_keys_lead_nowhere_else(key):
    with pytest.raises(RequestFault, match="a key such as /frames"):
        SharedMemory(allowed=True).register("r", key, 0, 1)


@pytest.mark.parametrize(("offset", "size"), [(60, 8), (-1, 8), (0, 0), (0, 2**62)])
def test_registering_more_than_there_is_is_refused(region, offset, size):
    with pytest.raises(RequestFault):
        region[0].register("r", "/resnetrt_test_region", offset, size)


def test_reading_past_the_registered_part_is_refused(region):
    memory, handle = region
    client_memory.set_shared_memory_region(handle, [np.arange(8, dtype=np.float64)])
    memory.register("r", "/resnetrt_test_region", 8, 16)
    assert np.frombuffer(memory.read("r", 8, 8)).tolist() == [2.0]
    for offset, size in ((0, 17), (16, 1), (9, 8)):
        with pytest.raises(RequestFault, match="expected a part of its 16 bytes"):
            memory.read("r", offset, size)


def test_a_server_for_other_machines_offers_none():
    with pytest.raises(RequestFault) as caught:
        SharedMemory(allowed=False).register("r", "/x", 0, 1)
    assert caught.value.kind is Kind.UNSUPPORTED
