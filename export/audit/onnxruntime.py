"""ONNX Runtime: the graph as its optimiser left it, which is what it executes."""

import re
import tempfile
from pathlib import Path
from typing import Any

import onnx

from resnetrt.errors import UsageError
from resnetrt.export.audit.layers import UNKNOWN, Evidence, ExecutedLayer, Kind, precision_of
from resnetrt.export.audit.source import PASS_THROUGH, Convolution, SourceGraph
from resnetrt.runtime.backends import import_package
from resnetrt.runtime.backends.onnxruntime import create_native

_CONVOLUTIONS = {"Conv", "FusedConv", "QLinearConv", "NhwcFusedConv", "NhwcConv", "ConvInteger"}
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


def read_layers(engine_path: Path, sidecar: dict[str, Any], source: SourceGraph) -> Evidence:
    """The optimised graph of the engine; raises `UsageError` where the provider keeps its graph to itself."""
    ort = import_package("onnxruntime")
    model = _optimised(engine_path, sidecar["target"])
    nodes = model.graph.node
    types = _element_types(model)
    matcher = _Matcher(source, nodes)
    layers = tuple(
        ExecutedLayer(
            name=node.name or node.output[0],
            op=node.op_type,
            precision=_precision(node, types),
            kind=_KINDS.get(node.op_type, "compute"),
            source=matcher.source(node),
        )
        for node in nodes
    )
    return Evidence(layers, f"optimised graph of ONNX Runtime {ort.__version__}")


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


class _Matcher:
    """Finds the convolution of the variant behind a node of the optimised graph.

    The optimiser renames nodes after what they absorbed and tensors after what they became, but it leaves the name of
    either the weight or the bias.
    """

    def __init__(self, source: SourceGraph, nodes: Any) -> None:
        self._by_constant = {name: conv for conv in source.convolutions.values() for name in conv.constants}
        self._by_name: dict[str, Convolution] = {}
        for conv in source.convolutions.values():
            names = (conv.name, conv.output, *(item.name for item in conv.followers))
            self._by_name.update(dict.fromkeys(names, conv))
        self._producers = {output: node for node in nodes for output in node.output}

    def source(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """The ONNX nodes whose work `node` does, as far as it can be told."""
        name = _SUFFIX.sub("", node.name)
        if node.op_type not in _CONVOLUTIONS:
            return (name,) if name else ()
        constants = (self._by_constant.get(self._origin(tensor)) for tensor in node.input[1:])
        conv = next(filter(None, constants), None) or self._by_name.get(name)
        return (conv.name,) if conv else ()

    def _origin(self, tensor: str) -> str:
        while (node := self._producers.get(tensor)) is not None and node.op_type in PASS_THROUGH | {"ReorderInput"}:
            tensor = node.input[0]
        return tensor
