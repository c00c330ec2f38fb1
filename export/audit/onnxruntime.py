"""ONNX Runtime: the graph as its optimiser left it, which is what it executes.

It is written in ONNX Runtime's own format, whose reader comes with the package: devices have no package onnx.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.export.audit.layers import UNKNOWN, Evidence, ExecutedLayer, Kind, precision_of
from resnetrt.export.audit.source import PASS_THROUGH, SourceGraph
from resnetrt.export.variants.outline import OutlineNode
from resnetrt.parts import import_part
from resnetrt.runtime.backends.onnxruntime import create_native

_MULTIPLIES = re.compile(r"Conv|Gemm|MatMul")
_KINDS: dict[str, Kind] = {
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "quantize",
    "Cast": "cast",
    "ReorderInput": "reformat",
    "ReorderOutput": "reformat",
    "Transpose": "reformat",
}
_INTEGER = re.compile(r"QLinear|QGemm|QAttention|Integer")
# what the optimiser appends to the name of the node that it rewrote
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/duplicated\w*)+$")


# element types by their number in ONNX's TensorProto.DataType
_TYPES = {1: "float", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "double",
          16: "bfloat16", 17: "float8e4m3fn"}  # fmt: skip


@dataclass(frozen=True)
class _Graph:
    """The nodes, and the element type of each value where it is known."""

    nodes: tuple[OutlineNode, ...]
    types: dict[str, str]


def read_layers(engine_path: Path, record: EngineRecord, _source: SourceGraph) -> list[Evidence]:
    """The optimised graph of the engine; raises `UsageError` where the provider keeps its graph to itself."""
    ort = import_part("onnxruntime", "backend onnxruntime")
    graph = _optimised(engine_path, record.target)
    producers = {output: node for node in graph.nodes for output in node.outputs}
    layers = tuple(_layer(node, graph.types, producers) for node in graph.nodes)
    return [Evidence(layers, f"optimised graph of ONNX Runtime {ort.__version__}")]


def _optimised(engine_path: Path, target: str) -> _Graph:
    hidden = UsageError(f"onnxruntime, target {target}: its provider does not show the graph that it runs")
    if target == "trt-ep":
        raise hidden  # and would build for minutes first
    with tempfile.TemporaryDirectory(prefix="resnetrt-audit-") as folder:
        path = Path(folder) / "optimised.ort"
        create_native(engine_path, target, threads=1, optimized_path=path)
        if not path.is_file():
            raise hidden
        return _read(path)


def _read(path: Path) -> _Graph:
    """A file in ONNX Runtime's format: a flatbuffer."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    graph: Any = InferenceSession.GetRootAs(path.read_bytes(), 0).Model().Graph()
    nodes = [graph.Nodes(place) for place in range(graph.NodesLength())]
    values = [graph.NodeArgs(place) for place in range(graph.NodeArgsLength())]
    constants = [graph.Initializers(place) for place in range(graph.InitializersLength())]
    types = {item.Name().decode(): item.DataType() for item in constants}
    types |= {value.Name().decode(): number for value in values if (number := _element_type(value))}
    return _Graph(
        tuple(
            OutlineNode(
                node.Name().decode(),
                node.OpType().decode(),
                tuple(node.Inputs(place).decode() for place in range(node.InputsLength())),
                tuple(node.Outputs(place).decode() for place in range(node.OutputsLength())),
            )
            for node in nodes
        ),
        {name: _TYPES.get(number, UNKNOWN) for name, number in types.items()},
    )


def _element_type(value: Any) -> int:
    """The number of a tensor's element type; 0 for a value that is no tensor, or of unknown type."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TensorTypeAndShape import TensorTypeAndShape
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TypeInfoValue import TypeInfoValue

    type_info = value.Type()
    if type_info is None or type_info.ValueType() != TypeInfoValue.tensor_type:
        return 0
    tensor = TensorTypeAndShape()
    tensor.Init(type_info.Value().Bytes, type_info.Value().Pos)
    return int(tensor.ElemType())


def _precision(node: OutlineNode, types: dict[str, str]) -> str:
    if _INTEGER.search(node.op):
        return "int8"
    known = (types[name] for name in (*node.inputs, *node.outputs) if name in types)
    return precision_of(next(known, UNKNOWN))


def _layer(node: OutlineNode, types: dict[str, str], producers: dict[str, OutlineNode]) -> ExecutedLayer:
    """`node` by the names that the optimiser left: a fused node may have any of its parts' names or outputs."""
    kind = _KINDS.get(node.op, "compute")
    labels = [_SUFFIX.sub("", name) for name in (node.name, *(node.outputs if kind == "compute" else ())) if name]
    return ExecutedLayer(
        name=node.name or node.outputs[0],
        op=node.op,
        precision=_precision(node, types),
        kind=kind,
        source=tuple(dict.fromkeys(filter(None, labels))),
        constants=tuple(_origin(name, producers) for name in node.inputs if name),
        multiplies=_MULTIPLIES.search(node.op) is not None,
    )


def _origin(tensor: str, producers: dict[str, OutlineNode]) -> str:
    """The tensor that `tensor` is made of by quantization and reordering alone."""
    while (node := producers.get(tensor)) is not None and node.op in PASS_THROUGH | {"ReorderInput"}:
        tensor = node.inputs[0]
    return tensor
