"""Probes of system shared memory."""

import uuid
from typing import Any

import numpy as np
from google.protobuf import json_format
from probing import IMAGES, INPUT, MODEL, OUTPUT, Answer, Target, fault_of, probe
from tritonclient import grpc, http
from tritonclient.utils import shared_memory


@probe
def shared_memory_over_http(target: Target) -> Answer:
    with Region(target.http, http) as region:
        return region.go_through()


@probe
def shared_memory_over_grpc(target: Target) -> Answer:
    with Region(target.grpc, grpc) as region:
        return region.go_through()


@probe
def an_output_region_that_is_too_small(target: Target) -> Answer:
    with Region(target.http, http) as over_http, Region(target.grpc, grpc) as over_grpc:
        return [fault_of(lambda: over_http.infer(16)), fault_of(lambda: over_grpc.infer(16))]


@probe
def an_unknown_shared_memory_region(target: Target) -> Answer:
    tensor = http.InferInput(INPUT, list(IMAGES.shape), "FP32")
    tensor.set_shared_memory("nothing", IMAGES.nbytes)
    return fault_of(lambda: target.http.infer(MODEL, [tensor]))


@probe
def a_shared_memory_object_that_is_not_there(target: Target) -> Answer:
    return fault_of(lambda: target.http.register_system_shared_memory("r", f"/{uuid.uuid4().hex}", 64))


class Region:
    """A registered region with the images, and room for the output behind them."""

    def __init__(self, client: Any, module: Any) -> None:
        self.client, self.module = client, module
        self.name = f"probe_{uuid.uuid4().hex}"

    def __enter__(self) -> "Region":
        self.handle = shared_memory.create_shared_memory_region(self.name, f"/{self.name}", IMAGES.nbytes + 160)
        shared_memory.set_shared_memory_region(self.handle, [IMAGES])
        self.register()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.unregister_system_shared_memory(self.name)
        shared_memory.destroy_shared_memory_region(self.handle)

    def register(self) -> None:
        self.client.register_system_shared_memory(self.name, f"/{self.name}", IMAGES.nbytes + 160)

    def infer(self, output_bytes: int = 160) -> Any:
        tensor = self.module.InferInput(INPUT, list(IMAGES.shape), "FP32")
        tensor.set_shared_memory(self.name, IMAGES.nbytes)
        output = self.module.InferRequestedOutput(OUTPUT)
        output.set_shared_memory(self.name, output_bytes, offset=IMAGES.nbytes)
        return self.client.infer(MODEL, [tensor], outputs=[output])

    def go_through(self) -> Answer:
        """What was computed, the faults of registering twice and of using what is gone."""
        again = fault_of(self.register)
        registered = bool(self.client.get_system_shared_memory_status(self.name))
        response = self.infer().get_response()
        if not isinstance(response, dict):
            response = json_format.MessageToDict(response, preserving_proto_field_name=True)
        stored = shared_memory.get_contents_as_numpy(self.handle, np.float32, [4, 10], offset=IMAGES.nbytes).tolist()
        self.client.unregister_system_shared_memory(self.name)
        return [response, stored, again, registered, fault_of(self.infer)]
