"""Write pools in ceil mode as pools that round down, with what their last windows reach beyond the image as padding.

PyTorch leaves out a last window that would begin in the padding; ONNX's shape inference counts it, and refuses the
file. OpenVINO 2026.4 divides the last windows of an average pool by other numbers of pixels than ONNX says.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

_POOLS = ("MaxPool", "AveragePool")
Shapes = dict[str, list[int]]


def rewrite_ceil_pools(graph: onnx.GraphProto) -> None:
    """Replace `ceil_mode` of every pool whose sizes are known, by the sizes that `graph` declares; names stay."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes = [made for node in graph.node for made in _rounded_down(node, shapes, graph)]
    del graph.node[:]
    graph.node.extend(nodes)


def _rounded_down(node: onnx.NodeProto, shapes: Shapes, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    before, after = shapes.get(node.input[0] if node.input else "", [])[2:], shapes.get(node.output[0], [])[2:]
    if node.op_type not in _POOLS or not options.get("ceil_mode") or not before or 0 in (*before, *after):
        yield node
        return
    axes = len(before)
    kernel = options["kernel_shape"]
    strides, dilations = options.get("strides", [1] * axes), options.get("dilations", [1] * axes)
    pads = options.get("pads", [0] * 2 * axes)
    behind = [
        max(0, (after[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - before[i] - pads[i] - pads[axes + i])
        for i in range(axes)
    ]
    if any(behind) and options.get("count_include_pad"):  # padding counts, what lies behind it does not
        yield _padded(node, pads, graph)
        node.input[0] = f"{node.name}.pad"
        pads, options["count_include_pad"] = [0] * 2 * axes, 0
    pads = [*pads[:axes], *(pad + more for pad, more in zip(pads[axes:], behind, strict=True))]
    del node.attribute[:]
    for name, value in (options | {"pads": pads, "ceil_mode": 0}).items():
        node.attribute.append(helper.make_attribute(name, value))
    yield node


def _padded(node: onnx.NodeProto, pads: list[int], graph: onnx.GraphProto) -> onnx.NodeProto:
    """A Pad with zeros by `pads`, none for images and channels."""
    axes = len(pads) // 2
    amounts = np.array([0, 0, *pads[:axes], 0, 0, *pads[axes:]], np.int64)
    name = f"{node.name}.pad"
    graph.initializer.append(numpy_helper.from_array(amounts, f"{name}.amounts"))
    return helper.make_node("Pad", [node.input[0], f"{name}.amounts"], [name], name, mode="constant")
