"""Inference over gRPC: protobuf messages to requests and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from resnetrt.runtime.serving.datatypes import BYTES, contents
from resnetrt.runtime.serving.faults import invalid
from resnetrt.runtime.serving.grpc_wire import split_raw
from resnetrt.runtime.serving.messages import (
    InferRequest,
    InferResponse,
    InputTensor,
    Parameters,
    WantedOutput,
    shape_of,
)

# which typed field holds a datatype
_TYPED = {"FP32": "fp32_contents", "UINT8": "uint_contents", "INT8": "int_contents", BYTES: "bytes_contents"}
_MOST_PARAMETERS = 64


@dataclass(frozen=True)
class Received:
    """A `ModelInferRequest` and its raw_input_contents; `message` may lack them."""

    message: Any
    raw: Sequence[bytes | memoryview]


def parse(blob: bytes) -> Received | None:
    """The message in `blob`; its raw contents stay where they are. None if there is no message in it, or a huge one."""
    split = split_raw(blob)
    if split is None:
        return None
    rest, raw = split
    try:
        message = service_pb2.ModelInferRequest.FromString(rest)
    except DecodeError:
        return None
    return Received(message, raw or message.raw_input_contents)


def read_request(received: Received) -> InferRequest:
    """What was asked. Raises `RequestFault`."""
    message = received.message
    request = InferRequest(message.model_name, message.model_version, message.id, _parameters(message.parameters))
    raws = iter(received.raw)
    has_raw = len(received.raw) > 0
    for item in message.inputs:
        tensor = _input(item)
        if has_raw and "shared_memory_region" not in tensor.parameters:
            if tensor.values is not None:
                raise invalid(f"input {tensor.name!r}: expected contents or raw_input_contents, found both")
            tensor.raw = next(raws, None)
            if tensor.raw is None:
                raise invalid(f"input {tensor.name!r}: expected an element of raw_input_contents for it, found none")
        request.inputs.append(tensor)
    if next(raws, None) is not None:
        raise invalid("raw_input_contents: expected one element for each input, found more")
    request.outputs = [WantedOutput(item.name, _parameters(item.parameters)) for item in message.outputs]
    return request


def write_response(response: InferResponse) -> Any:
    """The `ModelInferResponse`; contents are always raw."""
    message = service_pb2.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(b"" if tensor.in_region else bytes(contents(tensor.values)))
    return message


def _input(item: Any) -> InputTensor:
    shape = shape_of(item.shape, f"input {item.name[:60]!r}")
    tensor = InputTensor(item.name, item.datatype, shape, _parameters(item.parameters))
    given = [field.name for field, _ in item.contents.ListFields()]
    if not given:
        return tensor
    name = _TYPED.get(item.datatype, "none")
    if given != [name]:
        raise invalid(f"input {item.name!r}: {item.datatype[:60]} has its contents in {name}, found {', '.join(given)}")
    tensor.values = getattr(item.contents, name)  # turned into an array when their number is known to fit the model
    return tensor


def _parameters(parameters: Any) -> Parameters:
    if len(parameters) > _MOST_PARAMETERS:
        raise invalid(f"parameters: expected at most {_MOST_PARAMETERS}, found {len(parameters)}")
    return {name: _value(name, parameter) for name, parameter in parameters.items()}


def _value(name: str, parameter: Any) -> Any:
    which = parameter.WhichOneof("parameter_choice")
    if which is None:
        raise invalid(f"parameter {name[:60]!r}: expected a value, found none")
    return getattr(parameter, which)
