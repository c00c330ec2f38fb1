"""Give an exported graph readable names and nothing that depends on the exporter's machine.

Nodes and their outputs are named after the module they come from (`stages.0.1.conv2.conv`, `stages.0.1.relu_4`), so
every later report, from fold certificate to audit, speaks of the same layers.
"""

import ast
from pathlib import Path

import numpy as np
import onnx

from resnetrt.export.trace.ceil_pools import rewrite_ceil_pools
from resnetrt.export.trace.circular_padding import rewrite_circular_padding

BATCH = "batch"
_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(path: Path) -> None:
    """Rewrite the ONNX file at `path` in place.

    Names come from module scopes, the batch axis is named `batch`, there is no metadata, circular padding and pools in
    ceil mode are written so that every backend takes them alike, and every layer has a bias: the exporter drops those
    that are zero, every later stage would have to know both forms, and a bias is where quantization takes back the mean
    error of rounded weights.
    """
    model = onnx.load(str(path))
    _rename(model.graph)
    del model.graph.value_info[:]
    rewrite_circular_padding(model.graph)
    rewrite_ceil_pools(model)
    _add_missing_biases(model.graph)
    _name_batch_axis(model.graph)
    del model.metadata_props[:]
    model.doc_string, model.producer_version = "", ""
    for item in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), str(path))


def _rename(graph: onnx.GraphProto) -> None:
    fixed = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    taken = set(fixed)
    for node in graph.node:
        wanted = _readable(node)
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        node.name = name
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = name if index == 0 else f"{name}.{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]


def _readable(node: onnx.NodeProto) -> str:
    stored = next((item.value for item in node.metadata_props if item.key == _SCOPES), "[]")
    scopes: list[str] = [scope for scope in ast.literal_eval(stored) if scope]
    if not scopes:
        return node.name
    *modules, own = scopes
    if not modules:
        return own
    # a layer that is a module of its own (Conv2d, Linear) carries the module's name
    return modules[-1] if node.op_type in ("Conv", "Gemm", "MatMul", "BatchNormalization") else f"{modules[-1]}.{own}"


def _add_missing_biases(graph: onnx.GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if weight is not None and (len(node.input) < 3 or not node.input[2]):
            transposed = node.op_type == "Conv" or any(item.name == "transB" and item.i for item in node.attribute)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
            zeros = np.zeros(weight.dims[0 if transposed else 1], dtype)
            graph.initializer.append(onnx.numpy_helper.from_array(zeros, f"{node.name}.zero_bias"))
            node.input[:] = [*node.input[:2], f"{node.name}.zero_bias"]


def _name_batch_axis(graph: onnx.GraphProto) -> None:
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = BATCH
