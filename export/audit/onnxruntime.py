"""ONNX Runtime: the graph as its optimiser left it, which is what it executes."""

import re
import tempfile
from pathlib import Path

import onnx

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.export.audit.layers import UNKNOWN, Evidence, ExecutedLayer, Kind, precision_of
from resnetrt.export.audit.source import PASS_THROUGH, SourceGraph
from resnetrt.runtime.backends import import_package
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


def read_layers(engine_path: Path, record: EngineRecord, _source: SourceGraph) -> list[Evidence]:
    """The optimised graph of the engine; raises `UsageError` where the provider keeps its graph to itself."""
    ort = import_package("onnxruntime")
    model = _optimised(engine_path, record.target)
    types = _element_types(model)
    producers = {output: node for node in model.graph.node for output in node.output}
    layers = tuple(_layer(node, types, producers) for node in model.graph.node)
    return [Evidence(layers, f"optimised graph of ONNX Runtime {ort.__version__}")]


def _optimised(engine_path: Path, target: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="resnetrt-audit-") as folder:
        path = Path(folder) / "optimised.onnx"
        create_native(engine_path, target, threads=1, optimized_path=path)
        if not path.is_file():
            raise UsageError(f"onnxruntime, target {target}: its provider does not show the graph that it runs")
        return onnx.load(str(path))


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {item.name: item.data_type for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def _precision(node: onnx.NodeProto, types: dict[str, int]) -> str:
    if _INTEGER.search(node.op_type):
        return "int8"
    known = (types[name] for name in (*node.input, *node.output) if types.get(name))
    first = next(known, 0)
    return precision_of(onnx.TensorProto.DataType.Name(first)) if first else UNKNOWN


def _layer(node: onnx.NodeProto, types: dict[str, int], producers: dict[str, onnx.NodeProto]) -> ExecutedLayer:
    """`node` by the names that the optimiser left: a fused node may have any of its parts' names or outputs."""
    kind = _KINDS.get(node.op_type, "compute")
    labels = [_SUFFIX.sub("", name) for name in (node.name, *(node.output if kind == "compute" else ())) if name]
    return ExecutedLayer(
        name=node.name or node.output[0],
        op=node.op_type,
        precision=_precision(node, types),
        kind=kind,
        source=tuple(dict.fromkeys(filter(None, labels))),
        constants=tuple(_origin(name, producers) for name in node.input if name),
        multiplies=_MULTIPLIES.search(node.op_type) is not None,
    )


def _origin(tensor: str, producers: dict[str, onnx.NodeProto]) -> str:
    """The tensor that `tensor` is made of by quantization and reordering alone."""
    while (node := producers.get(tensor)) is not None and node.op_type in PASS_THROUGH | {"ReorderInput"}:
        tensor = node.input[0]
    return tensor
