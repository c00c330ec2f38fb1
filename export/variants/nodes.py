"""New nodes and constants of an `onnx_ir` graph, and the bytes of the whole model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[Any] | np.generic) -> ir.Value:
    """A new initializer of `graph` with the values, dtype and shape of `array`."""
    tensor = ir.Tensor(np.asarray(array), name=name)  # `ir.tensor` also takes lists, and takes ten times as long to see
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value


def named_node(
    operator: str, inputs: Sequence[ir.Value], name: str, attributes: Mapping[str, Any] | None = None
) -> ir.Node:
    """A node that is in no graph yet, its first output called as itself."""
    node = ir.node(operator, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node


def drop_unused(graph: ir.Graph, value: ir.Value) -> None:
    """Take the initializer `value` out of `graph` if nothing reads it any more."""
    if not value.uses() and value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]


def serialised(model: ir.Model) -> bytes:
    """The content of `model`'s ONNX file."""
    return bytes(ir.serde.serialize_model(model).SerializeToString())
