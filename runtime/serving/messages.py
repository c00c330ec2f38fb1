"""Inference requests and responses of the V2 protocol, as HTTP and gRPC both see them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from resnetrt.runtime.serving.faults import invalid
from resnetrt.runtime.session import Array

Parameters = dict[str, Any]
_MOST_AXES = 16


@dataclass
class InputTensor:
    """One input: `raw` holds binary contents, `values` those of JSON or gRPC's typed fields; both None: elsewhere."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Parameters = field(default_factory=dict)
    raw: bytes | bytearray | memoryview | None = None
    values: Sequence[Any] | Array | None = None


@dataclass
class WantedOutput:
    """An output that the client asks for."""

    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass
class InferRequest:
    """A request before it is checked against its model."""

    model: str
    version: str
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    inputs: list[InputTensor] = field(default_factory=list)
    outputs: list[WantedOutput] = field(default_factory=list)


@dataclass
class OutputTensor:
    """One output: an array, or the strings of a classification. `in_region`: it was written to shared memory."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array | list[bytes]
    wanted: Parameters
    in_region: bool = False


@dataclass
class InferResponse:
    """The answer to an `InferRequest`."""

    model: str
    version: str
    id: str
    outputs: list[OutputTensor]


def shape_of(axes: Any, what: str) -> tuple[int, ...]:
    """A tensor's shape, up to 16 axes of 0 or more; raises `RequestFault` for anything else."""
    listed = isinstance(axes, Sequence) and not isinstance(axes, str)
    if listed and len(axes) > _MOST_AXES:
        raise invalid(f"{what}: expected a shape of up to {_MOST_AXES} axes, found {len(axes)} of them")
    if not listed or not all(type(axis) is int and 0 <= axis < 2**31 for axis in axes):
        raise invalid(f"{what}: expected a shape of up to {_MOST_AXES} axes of 0 or more, found {str(axes)[:100]}")
    return tuple(axes)


def integer(parameters: Parameters, name: str, default: int = 0) -> int:
    """A parameter that is an integer of 0 or more; raises `RequestFault` for anything else."""
    value = parameters.get(name, default)
    if type(value) is not int or not 0 <= value < 2**63:
        raise invalid(f"parameter {name}: expected an integer of 0 or more, found {str(value)[:60]!r}")
    return value


def flag(parameters: Parameters, name: str, default: bool) -> bool:
    """A parameter that is a boolean; raises `RequestFault` for anything else."""
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise invalid(f"parameter {name}: expected true or false, found {str(value)[:60]!r}")
    return value
