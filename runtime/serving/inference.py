"""One inference: check the request against its model, queue it, build the answer."""

import asyncio
import math
import time
from collections.abc import Sequence

import numpy as np

from resnetrt.runtime.predict.classes import best_first
from resnetrt.runtime.serving import datatypes, pictures
from resnetrt.runtime.serving.answer import LoopAnswer
from resnetrt.runtime.serving.faults import Kind, RequestFault, as_fault, invalid
from resnetrt.runtime.serving.messages import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
    WantedOutput,
    integer,
)
from resnetrt.runtime.serving.model import VERSION, ServedModel
from resnetrt.runtime.serving.repository import Repository
from resnetrt.runtime.serving.shared_memory import SharedMemory
from resnetrt.runtime.session import Array, Outputs
from resnetrt.runtime.stream import Closed
from resnetrt.runtime.stream.pending import Request

_REGION = "shared_memory_region"
_TRIES = 3
_US = 1_000_000


class Inference:
    """Answers requests of all models. Belongs to the event loop's thread."""

    def __init__(self, repository: Repository, shared_memory: SharedMemory) -> None:
        self._repository = repository
        self._shared_memory = shared_memory
        self._limits = repository.options.limits

    async def infer(self, request: InferRequest, time_left_s: float | None = None) -> InferResponse:
        """The answer. Raises `RequestFault`; cancelling takes the request out of the queue.

        `time_left_s` is the client's own deadline, beside the request's parameter `timeout` in microseconds.
        """
        started = time.monotonic()
        model = None
        try:
            for _ in range(_TRIES):
                model = self._repository.find(request.model, request.version)
                try:
                    return await self._infer(model, request, time_left_s, started)
                except Closed:  # the model was replaced while this request was being read: the new one takes over
                    continue
            raise RequestFault(Kind.UNAVAILABLE, f"model {request.model!r} is being loaded again")
        except Exception as error:
            fault = as_fault(error)
            if model is not None and fault.kind in (Kind.INVALID, Kind.TOO_LARGE, Kind.UNSUPPORTED):
                model.batcher.statistics.ended("invalid")
            if fault is error:
                raise
            raise fault from error

    async def _infer(
        self, model: ServedModel, request: InferRequest, time_left_s: float | None, started: float
    ) -> InferResponse:
        wanted = check_outputs(model, request.outputs)
        timeout_us = integer(request.parameters, "timeout")
        batch = await self._read_input(model, request.inputs)
        if time_left_s is not None:
            left_us = int((time_left_s - (time.monotonic() - started)) * _US)
            timeout_us = max(1, min(left_us, timeout_us or left_us))
        self._check_regions(model, wanted, len(batch))
        batcher, answer = model.batcher, LoopAnswer()
        queued = Request(batch, self, answer, batcher.deadline_ns(timeout_us))
        batcher.submit(queued, batcher.options.max_queue_size)
        outputs = await answer.outputs()
        tensors = [self._output(model, item, outputs) for item in wanted]
        return InferResponse(model.name, VERSION, request.id, tensors)

    async def _read_input(self, model: ServedModel, inputs: list[InputTensor]) -> Array:
        given = check_input(model, inputs)
        raw = given.raw
        if _REGION in given.parameters:
            if raw is not None or given.values is not None:
                raise invalid(
                    f"input {given.name!r}: expected its data in shared memory, found some in the request too"
                )
            name, offset, size = _region(given.parameters)
            most = _size_bytes(given.shape, model.input.dtype)
            most = self._limits.max_body_bytes if given.datatype == datatypes.BYTES else most
            if size > most:  # reading makes a copy
                raise invalid(f"input {given.name!r}: expected at most {most} bytes in shared memory, found {size}")
            raw = self._shared_memory.read(name, offset, size)
        if given.datatype != datatypes.BYTES:
            if raw is not None:
                return datatypes.from_raw(raw, model.input.dtype, given.shape)
            if given.values is None:
                raise invalid(f"input {given.name!r}: expected data, found none")
            return datatypes.from_values(given.values, model.input.dtype, given.shape)
        encoded = datatypes.split_bytes(raw, given.shape[0]) if raw is not None else _encoded(given)
        return await asyncio.to_thread(self._read_pictures, model, encoded)

    def _read_pictures(self, model: ServedModel, encoded: list[bytes]) -> Array:
        return model.session.prepare(pictures.read_frames(encoded, model.preprocessing, self._limits.max_image_pixels))

    def _check_regions(self, model: ServedModel, wanted: list[WantedOutput], count: int) -> None:
        """Raise `RequestFault` unless the outputs' places in shared memory are there, and large enough."""
        specs = {spec.name: spec for spec in model.outputs}
        for item in wanted:
            if _REGION in item.parameters:
                spec = specs[item.name]
                strings = integer(item.parameters, "classification")
                least = 0 if strings else _size_bytes((count, *(axis or 1 for axis in spec.shape[1:])), spec.dtype)
                self._shared_memory.check(*_region(item.parameters), least)

    def _output(self, model: ServedModel, wanted: WantedOutput, outputs: Outputs) -> OutputTensor:
        values = outputs[wanted.name]
        top = integer(wanted.parameters, "classification")
        if top:
            strings = classify(values, top, model.labels)
            shape = (len(values), len(strings) // len(values))
            tensor = OutputTensor(wanted.name, datatypes.BYTES, shape, strings, wanted.parameters)
        else:
            datatype = datatypes.v2_name(values.dtype.name)
            tensor = OutputTensor(wanted.name, datatype, values.shape, values, wanted.parameters)
        if _REGION in wanted.parameters:
            name, offset, limit = _region(wanted.parameters)
            self._shared_memory.write(name, offset, limit, datatypes.contents(tensor.values))
            tensor.in_region = True
        return tensor


def check_input(model: ServedModel, inputs: list[InputTensor]) -> InputTensor:
    """The one input, if name, datatype and shape fit the model; raises `RequestFault`."""
    spec = model.input
    if len(inputs) != 1:
        raise invalid(f"model {model.name!r}: expected 1 input, found {len(inputs)}")
    (given,) = inputs
    if given.name != spec.name:
        raise invalid(
            f"unexpected inference input {given.name[:200]!r} for model {model.name!r}, expected {spec.name!r}"
        )
    datatype = datatypes.v2_name(spec.dtype)
    if given.datatype not in (datatype, datatypes.BYTES):
        raise invalid(
            f"input {spec.name!r}: expected datatype {datatype} or BYTES (JPEG, PNG), found {given.datatype[:60]!r}"
        )
    image = model.batcher.image_shape
    shapes = ((), (1,)) if given.datatype == datatypes.BYTES else (image,)
    most = model.batcher.max_batch_size
    if given.shape[1:] not in shapes or not given.shape or not 1 <= given.shape[0] <= most:
        expected = ", ".join(str(["N", *shape]).replace("'", "") for shape in shapes)
        raise invalid(
            f"input {spec.name!r}: expected shape {expected} with N from 1 to {most}, found {list(given.shape)}"
        )
    return given


def check_outputs(model: ServedModel, wanted: list[WantedOutput]) -> list[WantedOutput]:
    """What to answer with: all outputs if none are named. Raises `RequestFault` for unknown ones and twins."""
    known = [spec.name for spec in model.outputs]
    for index, item in enumerate(wanted):
        if item.name not in known or item.name in [earlier.name for earlier in wanted[:index]]:
            raise invalid(f"unexpected inference output {item.name[:200]!r} for model {model.name!r}, known: {known}")
        integer(item.parameters, "classification")
        if _REGION in item.parameters:
            _region(item.parameters)
    return wanted or [WantedOutput(name) for name in known]


def classify(values: Array, top: int, labels: Sequence[str]) -> list[bytes]:
    """`value:index[:label]` of the `top` largest of each row, largest first, all rows one after the other."""
    flat = values.reshape(len(values), -1)
    return [
        f"{flat[row, index]:f}:{index}{':' + labels[index] if index < len(labels) else ''}".encode()
        for row, indices in enumerate(best_first(flat, top))
        for index in indices
    ]


def _encoded(given: InputTensor) -> list[bytes]:
    count = 0 if given.values is None else len(given.values)
    values = list(given.values or ()) if count == given.shape[0] else []
    if not values or not all(isinstance(value, bytes) for value in values):
        raise invalid(f"input {given.name!r}: expected {given.shape[0]} images as binary data; JSON can't hold them")
    return values


def _size_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _region(parameters: Parameters) -> tuple[str, int, int]:
    """Name, offset and size of a part of shared memory; raises `RequestFault`."""
    name = parameters[_REGION]
    if not isinstance(name, str) or "shared_memory_byte_size" not in parameters:
        raise invalid("shared memory: expected shared_memory_region, a name, and shared_memory_byte_size")
    return name, integer(parameters, "shared_memory_offset"), integer(parameters, "shared_memory_byte_size")
