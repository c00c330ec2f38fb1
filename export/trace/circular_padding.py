"""Write circular padding as slices of the far side put in front and behind.

ONNX has Pad with mode `wrap`, but OpenVINO 2026.4 and TensorRT don't support it, and OpenVINO continued without the
shape until another node crashed the process. Slice and Concat do the same, and every backend has them.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_END = np.iinfo(np.int64).max


def rewrite_circular_padding(graph: onnx.GraphProto) -> None:
    """Replace every Pad with mode `wrap` and constant amounts; names of outputs stay."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        amounts = constants.get(node.input[1]) if _wraps(node) else None
        if amounts is None or len(node.input) > 3:
            nodes.append(node)
        else:
            nodes += _sliced(node, amounts.reshape(2, -1).T, graph)
    del graph.node[:]
    graph.node.extend(nodes)


def _wraps(node: onnx.NodeProto) -> bool:
    return node.op_type == "Pad" and any(item.name == "mode" and item.s == b"wrap" for item in node.attribute)


def _sliced(node: onnx.NodeProto, amounts: np.ndarray, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that stand for `node`; `amounts` `(axes, 2)` of what is put in front and behind.

    A negative amount crops before anything is added: what is added at the end starts from the cropped value.
    """
    value = node.input[0]
    nodes: list[onnx.NodeProto] = []
    for axis, ends in enumerate(amounts):
        before, after = (int(count) for count in ends)
        prefix = f"{node.name}.{axis}"
        if min(before, after) < 0:
            nodes.append(_slice(value, (max(-before, 0), min(after, 0) or _END), axis, f"{prefix}.left", graph))
            value = nodes[-1].output[0]
        parts = [value]
        if before > 0:
            nodes.append(_slice(value, (-before, _END), axis, f"{prefix}.before", graph))
            parts = [nodes[-1].output[0], *parts]
        if after > 0:
            nodes.append(_slice(value, (0, after), axis, f"{prefix}.after", graph))
            parts = [*parts, nodes[-1].output[0]]
        if len(parts) > 1:
            nodes.append(helper.make_node("Concat", parts, [prefix], prefix, axis=axis))
            value = prefix
    if not nodes:
        nodes.append(helper.make_node("Identity", [value], [""], node.name))
    nodes[-1].output[0] = node.output[0]
    return nodes


def _slice(value: str, bounds: tuple[int, int], axis: int, name: str, graph: onnx.GraphProto) -> onnx.NodeProto:
    """The part of `value` between two `bounds` of an axis; its constants go to the graph."""
    names = [f"{name}.{what}" for what in ("starts", "ends", "axes")]
    for tensor, number in zip(names, (*bounds, axis), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), tensor))
    return helper.make_node("Slice", [value, *names], [name], name)
