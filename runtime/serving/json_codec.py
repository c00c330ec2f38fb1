"""Inference over HTTP: a JSON head, binary tensor contents after it; the binary tensor data extension of V2."""

import json
import reprlib
from typing import Any, NoReturn

import numpy as np

from resnetrt.runtime.serving.datatypes import BYTES, contents
from resnetrt.runtime.serving.faults import invalid
from resnetrt.runtime.serving.messages import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
    WantedOutput,
    flag,
    integer,
    shape_of,
)

_SCALARS = (str, int, float, bool)


def parse_object(blob: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The JSON object in `blob`. Raises `RequestFault` for anything else, NaN and infinity too."""
    try:
        value = json.loads(bytes(blob), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"failed to parse the request JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise invalid(f"failed to parse the request JSON: expected an object, found {type(value).__name__}")
    return value


def read_request(body: bytearray, head_length: str | None, model: str, version: str) -> InferRequest:
    """A request of POST .../infer. `head_length` is the header Inference-Header-Content-Length, if there is one.

    Binary contents stay where they are in `body`. Raises `RequestFault`.
    """
    length = _head_length(head_length, len(body))
    head = parse_object(memoryview(body)[:length])
    request = InferRequest(model, version, _text(head, "id", ""), _parameters(head, "request"))
    rest, at = memoryview(body)[length:], 0
    for record in _records(head, "inputs", required=True):
        tensor = _input(record)
        size = integer(tensor.parameters, "binary_data_size") if "binary_data_size" in tensor.parameters else None
        if size is not None:
            if tensor.values is not None:
                raise invalid(f"input {tensor.name!r}: expected data or binary_data_size, found both")
            if at + size > len(rest):
                raise invalid(f"input {tensor.name!r}: expected {size} binary bytes, found {len(rest) - at}")
            tensor.raw = rest[at : at + size]
            at += size
        request.inputs.append(tensor)
    if at != len(rest):
        raise invalid(f"binary contents: expected {at} bytes as the inputs say, found {len(rest)}")
    binary = flag(request.parameters, "binary_data_output", False)
    for record in _records(head, "outputs", required=False):
        parameters = _parameters(record, "output")
        flag(parameters, "binary_data", binary)
        request.outputs.append(WantedOutput(_text(record, "name"), {"binary_data": binary} | parameters))
    return request


def write_response(response: InferResponse, binary_default: bool) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON head if binary contents follow it."""
    outputs, parts = [], []
    for tensor in response.outputs:
        record: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.in_region:
            pass  # as Triton: the client knows where it is
        elif tensor.wanted.get("binary_data", binary_default):
            blob = contents(tensor.values)
            record["parameters"] = {"binary_data_size": len(blob)}
            parts.append(blob)
        else:
            record["data"] = _json_values(tensor)
        outputs.append(record)
    head: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    head |= {"id": response.id} if response.id else {}
    encoded = json.dumps(head | {"outputs": outputs}).encode()
    return b"".join((encoded, *parts)), len(encoded) if parts else None


def _json_values(tensor: OutputTensor) -> list[Any]:
    if tensor.datatype == BYTES:
        return [value.decode() for value in tensor.values]
    if tensor.datatype == "FP16":
        raise invalid(f"output {tensor.name!r}: FP16 is given only as binary data; ask for binary_data")
    values = np.asarray(tensor.values)
    if not np.isfinite(values).all():
        text = f"output {tensor.name!r}: it has NaN or infinite values, which JSON can't hold; ask for binary_data"
        raise invalid(text)
    return list(values.ravel().tolist())


def _head_length(text: str | None, most: int) -> int:
    if text is None:
        return most
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 0 < int(text) <= most):
        raise invalid(
            f"Inference-Header-Content-Length: expected 1 to {most}, the size of the body, found {text[:60]!r}"
        )
    return int(text)


def _input(record: dict[str, Any]) -> InputTensor:
    shape = shape_of(record.get("shape"), "input")
    values = record.get("data")
    if values is not None and not isinstance(values, list):
        raise invalid(f"input data: expected a list, found {type(values).__name__}")
    name, datatype = _text(record, "name"), _text(record, "datatype")
    return InputTensor(name, datatype, shape, _parameters(record, f"input {name[:60]!r}"), values=values)


def _records(head: dict[str, Any], key: str, required: bool) -> list[dict[str, Any]]:
    records = head.get(key, None if required else [])
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        raise invalid(f"{key}: expected a list of objects, found {reprlib.repr(records)[:100]}")
    return records


def _text(record: dict[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise invalid(f"{key}: expected a string, found {reprlib.repr(value)[:100]}")
    if not value.isprintable() or any(0xD800 <= ord(letter) < 0xE000 for letter in value):
        raise invalid(f"{key}: expected printable text, found {ascii(value)[:100]}")
    return value


def _parameters(record: dict[str, Any], what: str) -> Parameters:
    parameters = record.get("parameters", {})
    if not isinstance(parameters, dict) or not all(isinstance(value, _SCALARS) for value in parameters.values()):
        raise invalid(f"parameters of {what}: expected an object of strings, numbers and booleans")
    return parameters


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
