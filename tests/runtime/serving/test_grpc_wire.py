"""Taking raw contents out of a request's bytes gives what protobuf's parser gives."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from resnetrt.runtime.serving.grpc_codec import parse
from resnetrt.runtime.serving.grpc_wire import split_raw

Message = service_pb2.ModelInferRequest


def fields(number: int, kind: int, content: bytes) -> bytes:
    return bytes([number << 3 | kind]) + content


def delimited(number: int, content: bytes) -> bytes:
    message = Message(raw_input_contents=[content]).SerializeToString()
    return bytes([number << 3 | 2]) + message[1:]


PARTS = st.one_of(
    st.builds(delimited, st.just(7), st.binary(max_size=300)),
    st.builds(delimited, st.integers(0, 15), st.binary(max_size=20)),
    st.builds(fields, st.integers(0, 15), st.integers(0, 7), st.binary(max_size=12)),
    st.binary(max_size=12),
)


def by_protobuf(blob: bytes):
    try:
        return Message.FromString(blob)
    except DecodeError:
        return None


def assert_same(blob: bytes) -> None:
    wanted, parsed = by_protobuf(blob), parse(blob)
    if wanted is None:
        assert parsed is None
        return
    assert [bytes(raw) for raw in parsed.raw] == list(wanted.raw_input_contents)
    for message in (wanted, parsed.message):
        message.ClearField("raw_input_contents")
    assert parsed.message.SerializeToString(deterministic=True) == wanted.SerializeToString(deterministic=True)


@given(st.lists(PARTS, max_size=6).map(b"".join))
@example(b"\x3a\x81\x80\x80\x80\x00x")  # a length in more bytes than it needs
@example(b"\x3a\x81\x80\x80\x80\x80\x00x")  # and in more than allowed
@example(b"\xba\x00\x01x")  # a tag in more bytes than it needs
@example(b"\x3a\x01x\x0b\x0c")  # a group
@example(b"\x3a\x01x\x3a\x7f")  # the second is cut off
@example(b"\x3a")
def test_noise_is_read_as_protobuf_reads_it(blob):
    assert_same(blob)


@given(
    st.lists(st.binary(max_size=300), max_size=3),
    st.text(max_size=5),
    st.lists(st.integers(0, 2**31), max_size=4),
    st.integers(0, 700),
)
def test_requests_whole_and_cut_off(raws, name, shape, cut):
    message = Message(model_name=name, id="7", raw_input_contents=raws)
    message.inputs.add(name="input", datatype="UINT8", shape=shape)
    message.parameters["timeout"].int64_param = 5
    blob = message.SerializeToString()
    assert_same(blob)
    assert_same(blob[:cut])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
def test_contents_are_views_of_what_was_received(size):
    message = Message(model_name="m", raw_input_contents=[bytes(size), b"y"])
    blob = message.SerializeToString()
    rest, raw = split_raw(blob)
    assert rest == Message(model_name="m").SerializeToString()
    assert [view.obj is blob for view in raw] == [True, True]
    assert [bytes(view) for view in raw] == [bytes(size), b"y"]
