"""The layers of a built engine (ProfilingVerbosity.DETAILED): from the build log, or from the inspector's records.

A layer of the engine is one kernel; its metadata names the ONNX nodes that it fuses. The log's form is no API: it was
read from TensorRT-RTX 1.7.1. An engine without layers is reported.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resnetrt.errors import CheckFailed
from resnetrt.export.compilers.tensorrt.log import build_error
from resnetrt.export.compilers.tensorrt.options import Profile
from resnetrt.runtime.backends.tensorrt_inspector import data_type, inspected_layers
from resnetrt.runtime.backends.tensorrt_logger import Lines, make

_DEFAULT_STREAM = 0
_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), ", re.MULTILINE)
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TENSOR = re.compile(r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[^\]]*)\],.*?Datatype: (?P<dtype>\w+)")
_PROFILE = re.compile(r"\[profile (\d+)\]")  # in names of layers and tensors, of the second profile and later ones
_GRAPH = re.compile(r"_myl(\d+)_\d+$")  # the number of a graph that one part of TensorRT compiles for one profile
_TACTIC = re.compile(r"TacticName: (.*?), StreamId")
_DTYPES = {
    "Float": "fp32",
    "Half": "fp16",
    "BFloat16": "bf16",
    "Int8": "int8",
    "FP8": "fp8",
    "Int32": "int32",
    "Int64": "int64",
    "Bool": "bool",
    "UInt8": "uint8",
}


@dataclass(frozen=True)
class LayerTensor:
    """A tensor of a layer: name, precision (`fp32`, `fp16`, `int8`, ..., or TensorRT's word), shape, -1 if free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineLayer:
    """One kernel: `type` is TensorRT's (`correlation` is a convolution), `onnx` the ONNX nodes it computes.

    An engine has kernels of its own for each optimization `profile`.
    """

    name: str
    type: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    onnx: tuple[str, ...]
    tactic: str = ""
    profile: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "EngineLayer":
        """The inverse of `to_json`."""

        def tensors(key: str) -> tuple[LayerTensor, ...]:
            return tuple(LayerTensor(item["name"], item["dtype"], tuple(item["shape"])) for item in record[key])

        return cls(
            record["name"],
            record["type"],
            tensors("inputs"),
            tensors("constants"),
            tensors("outputs"),
            tuple(record["onnx"]),
            record["tactic"],
            record.get("profile", 0),
        )


def layers_file(source: str, layers: Sequence[EngineLayer]) -> dict[str, dict[str, Any]]:
    """What is stored beside an engine, by the end of the file's name; `source` says where the layers were read."""
    return {"layers.json": {"source": source, "layers": [item.to_json() for item in layers]}}


def parse_layers(texts: Iterable[str]) -> list[EngineLayer]:
    """The engine's layers in order, from the texts of the build log; empty if it was not detailed."""
    lines = [line for text in texts for line in text.splitlines() if _LAYER.match(line)]
    return _with_profiles([_parse(line) for line in lines], lines)


def inspect_plan(trt: Any, logger: Any, plan: bytes, profiles: Sequence[Profile], what: str) -> list[EngineLayer]:
    """The layers of each profile at its most likely shape; empty if the inspector tells none.

    Raises `CheckFailed` with TensorRT's first error if the engine does not load.
    """
    with logger.recorded() as lines:
        runtime = make(trt.Runtime, logger)
        runtime.engine_host_code_allowed = True  # it was built here; version-compatible engines carry their runtime
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise CheckFailed(str(build_error(lines, what, "inspecting the engine")))
        return inspect_engine(trt, engine, profiles, what, lines)


def inspect_engine(trt: Any, engine: Any, profiles: Sequence[Profile], what: str, lines: Lines) -> list[EngineLayer]:
    """As `inspect_plan`, of an engine that is loaded; `lines` are what is logged meanwhile."""
    inspected = []
    for index, profile in enumerate(profiles):
        context = engine.create_execution_context()
        if context is None or not _choose(context, index, profile):
            raise CheckFailed(str(build_error(lines, what, "inspecting the engine")))
        # without its own shape set, a layer has no formats: each context tells of its own profile
        layers = layers_of_records(inspected_layers(trt, engine, context))
        inspected += [item for item in layers if item.profile == index]
    return inspected


def _choose(context: Any, index: int, profile: Profile) -> bool:
    chosen = index == 0 or context.set_optimization_profile_async(index, _DEFAULT_STREAM)
    return bool(chosen and context.set_input_shape(profile.input, profile.opt))


def layers_of_records(records: Sequence[dict[str, Any]]) -> list[EngineLayer]:
    """The layers from the engine inspector's records of them."""
    return _with_profiles([layer_of_record(record) for record in records], [json.dumps(item) for item in records])


def _with_profiles(layers: list[EngineLayer], texts: Sequence[str]) -> list[EngineLayer]:
    """Each layer with the profile that its text names, or that another layer of its graph names."""
    own = [max(map(int, _PROFILE.findall(text)), default=0) for text in texts]
    graphs = [match[1] if (match := _GRAPH.search(layer.name)) else "" for layer in layers]
    shared: dict[str, int] = {}
    for graph, profile in zip(graphs, own, strict=True):
        if graph:
            shared[graph] = max(profile, shared.get(graph, 0))
    profiles = [shared.get(graph, profile) for graph, profile in zip(graphs, own, strict=True)]
    return [replace(layer, profile=profile) for layer, profile in zip(layers, profiles, strict=True)]


def layer_of_record(record: dict[str, Any]) -> EngineLayer:
    """A layer from the engine inspector's record of it; the weights count as its first constant."""
    weights = [record["Weights"]] if isinstance(record.get("Weights"), dict) else []
    constants = [LayerTensor("weights", data_type(item), (int(item.get("Count", 0)),)) for item in weights]
    return EngineLayer(
        name=str(record["Name"]),
        type=str(record.get("LayerType", "")),
        inputs=_tensors(record.get("Inputs")),
        constants=(*constants, *_tensors(record.get("Constants"))),
        outputs=_tensors(record.get("Outputs")),
        onnx=tuple(dict.fromkeys(_ONNX.findall(str(record.get("Metadata", ""))))),
        tactic=str(record.get("TacticName", "")),
    )


def _tensors(records: Any) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(str(item.get("Name", "")), data_type(item), tuple(item.get("Dimensions") or ()))
        for item in records or ()
        if isinstance(item, dict)
    )


def _parse(line: str) -> EngineLayer:
    head = _LAYER.match(line)
    assert head is not None
    tactic = _TACTIC.search(line)
    return EngineLayer(
        name=head["name"],
        type=head["type"],
        inputs=_section(line, "Inputs"),
        constants=_section(line, "Constants"),
        outputs=_section(line, "Outputs"),
        onnx=tuple(dict.fromkeys(_ONNX.findall(line))),
        tactic=tactic[1] if tactic else "",
    )


def _section(line: str, title: str) -> tuple[LayerTensor, ...]:
    """The tensors between `title: [` and the next section."""
    match = re.search(rf"{title}: \[(.*?)\](?=, (?:Constants|Outputs|TacticName): ?)", line)
    if match is None:
        return ()
    tensors = []
    for tensor in _TENSOR.finditer(match[1]):
        dims = tuple(int(axis) for axis in tensor["dims"].split(",") if axis.strip())
        tensors.append(LayerTensor(tensor["name"], _DTYPES.get(tensor["dtype"], tensor["dtype"]), dims))
    return tuple(tensors)
