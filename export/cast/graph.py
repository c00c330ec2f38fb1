"""Retype a float32 graph to a 16-bit type, with float32 inputs and outputs and some layers left as they are."""

from collections.abc import Collection

import onnx
import onnx_ir as ir
from onnx import version_converter

from resnetrt.export.cast.half_types import HALF_OPERATORS, HalfType

FLOAT = ir.DataType.FLOAT
# operator: inputs that are float32 by its definition
_FLOAT_INPUTS = {"Resize": (1, 2)}


def load_typed(path: str, least_opset: int) -> ir.Model:
    """Load an ONNX file at `least_opset` or later, with the type of every value known."""
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < least_opset:
        model = version_converter.convert_version(model, least_opset)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def cast_graph(graph: ir.Graph, half: HalfType, kept: Collection[str]) -> None:
    """Make every node that knows the type compute in `half`, but those named in `kept`; casts stand where types meet.

    Names of nodes, weights, inputs and outputs stay the same.
    """
    _Caster(graph, half, kept).run()


class _Caster:
    def __init__(self, graph: ir.Graph, half: HalfType, kept: Collection[str]) -> None:
        self._graph, self._half, self._kept = graph, half, kept
        self._casts: dict[tuple[int, ir.DataType], ir.Value] = {}
        self._constants: dict[str, ir.Value] = {}

    def run(self) -> None:
        for node in list(self._graph):
            wanted = self._type_of(node)
            fixed = _FLOAT_INPUTS.get(node.op_type, ())
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in (FLOAT, self._half.onnx) and index not in fixed:
                    node.replace_input_with(index, self._as(value, wanted))
            for output in node.outputs:
                if output.dtype == FLOAT and wanted != FLOAT:
                    output.dtype = wanted
        self._restore_outputs()
        self._replace_constants()

    def _type_of(self, node: ir.Node) -> ir.DataType:
        return FLOAT if node.name in self._kept or node.op_type not in HALF_OPERATORS else self._half.onnx

    def _as(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if value.dtype == wanted:
            return value
        if value.const_value is not None:
            return self._constant(value)
        key = (id(value), wanted)
        if key not in self._casts:
            name = "fp32" if wanted == FLOAT else self._half.name
            cast = _cast_node(value, wanted, f"{value.name}.to_{name}")
            producer = value.producer()
            if producer is None:
                self._graph.insert_before(self._graph[0], cast)
            else:
                self._graph.insert_after(producer, cast)
            self._casts[key] = cast.outputs[0]
        return self._casts[key]

    def _constant(self, value: ir.Value) -> ir.Value:
        """The 16-bit copy of an initializer; it takes the name over if nothing reads the original any more."""
        name = value.name or ""
        if name not in self._constants:
            assert value.const_value is not None
            array = value.const_value.numpy().astype(self._half.numpy)
            copied = f"{name}.{self._half.name}"
            self._constants[name] = ir.Value(name=copied, const_value=ir.tensor(array, name=copied))
            self._constants[name].dtype = self._half.onnx
            self._constants[name].shape = value.shape
        return self._constants[name]

    def _replace_constants(self) -> None:
        initializers = self._graph.initializers
        for name, copied in self._constants.items():
            if not initializers[name].uses():
                del initializers[name]
                copied.name = name
                assert copied.const_value is not None
                copied.const_value.name = name
            self._graph.register_initializer(copied)

    def _restore_outputs(self) -> None:
        for index, value in enumerate(self._graph.outputs):
            if value.dtype == self._half.onnx:
                name = value.name
                value.name = f"{name}.{self._half.name}"
                cast = _cast_node(value, FLOAT, f"{name}.to_fp32")
                cast.outputs[0].name = name
                self._graph.append(cast)
                self._graph.outputs[index] = cast.outputs[0]


def _cast_node(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(wanted)}, name=name)
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, wanted, value.shape
    return node
