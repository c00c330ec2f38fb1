"""Read the outline of an ONNX file: shapes are inferred for one image, or seen in a run."""

import math
from pathlib import Path

import numpy as np
import onnx

from resnetrt.errors import CheckFailed
from resnetrt.export.trace.ceil_pools import rewrite_ceil_pools
from resnetrt.export.variants.outline import Outline, OutlineNode
from resnetrt.export.variants.qdq import WEIGHTED

_MULTIPLIES = (*WEIGHTED, "ConvTranspose")
_Shapes = dict[str, tuple[int, ...]]


def read_outline(path: Path) -> Outline:
    """The outline of an ONNX file. Raises `CheckFailed` if it multiplies nothing, or if its shapes can't be told."""
    model = _for_one_image(onnx.load(str(path)))
    nodes = list(model.graph.node)
    multiplying = [node for node in nodes if node.op_type in _MULTIPLIES]
    if not multiplying:
        raise CheckFailed(f"{path.name}: expected convolutions or matrix products, found none to audit")
    constants = frozenset(item.name for item in model.graph.initializer)
    shapes = _shapes(model, multiplying)
    return Outline(
        nodes=tuple(OutlineNode(_name(node), node.op_type, tuple(node.input), tuple(node.output)) for node in nodes),
        constants=constants,
        macs={_name(node): _macs(node, shapes, path.name) for node in multiplying},
    )


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _macs(node: onnx.NodeProto, shapes: _Shapes, file: str) -> int:
    left, right, output = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
    if left is None or right is None or output is None:
        raise CheckFailed(f"{file}: the shapes of {node.op_type} {node.name} are unknown, so is its work")
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(right[1:])
    rows_first = any(item.name == "transA" and item.i for item in node.attribute)
    return math.prod(output) * left[0 if rows_first else -1]


def _for_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its batch axis set to 1, and no shapes but those of its input and initializers."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_value = 1
    del model.graph.value_info[:]
    return model


def _shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> _Shapes:
    """Shapes for one image, of all that `nodes` read and write: inferred, or seen in a run where inference stops."""
    rewrite_ceil_pools(model)  # in a file from another tool, whose sizes would be inferred wrong
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: _Shapes = {item.name: tuple(item.dims) for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    wanted = {name for node in nodes for name in (*node.input[:2], node.output[0])}
    missing = wanted - shapes.keys()
    return shapes | _seen_shapes(model, missing) if missing else shapes


def _seen_shapes(model: onnx.ModelProto, names: set[str]) -> _Shapes:
    """Shapes of the values `names` when the model runs on zeros; none if it does not run."""
    from resnetrt.export.variants.inner_values import InnerValues

    kind = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]
    try:
        zeros = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return {name: value.shape for name, value in InnerValues(model, names).of(zeros).items()}
    except Exception:  # ONNX Runtime has its own types; what stays unknown is said by the caller
        return {}
