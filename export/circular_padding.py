"""Write circular padding as slices of the far side put in front and behind.

ONNX has Pad with mode `wrap`, but OpenVINO 2026.4 and TensorRT have not, and OpenVINO went on without the shape until
another node crashed the process. Slice and Concat say the same, and every backend has them.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

_END = np.iinfo(np.int64).max


def rewrite_circular_padding(graph: onnx.GraphProto) -> None:
    """Replace every Pad with mode `wrap` and constant, non-negative amounts; names of outputs stay."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        amounts = constants.get(node.input[1]) if _wraps(node) else None
        if amounts is None or (amounts < 0).any() or len(node.input) > 3:
            nodes.append(node)
        else:
            nodes += _sliced(node, amounts.reshape(2, -1).T, graph)
    del graph.node[:]
    graph.node.extend(nodes)


def _wraps(node: onnx.NodeProto) -> bool:
    return node.op_type == "Pad" and any(item.name == "mode" and item.s == b"wrap" for item in node.attribute)


def _sliced(node: onnx.NodeProto, amounts: np.ndarray, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that stand for `node`; `amounts` `(axes, 2)` of what is put in front and behind."""
    value = node.input[0]
    padded = [axis for axis, ends in enumerate(amounts) if ends.any()]
    for axis in padded:
        before, after = (int(count) for count in amounts[axis])
        parts = [value]
        for name, present, start, end in (("before", before, -before, _END), ("after", after, 0, after)):
            if present:
                prefix = f"{node.name}.{axis}.{name}"
                names = [f"{prefix}.{bound}" for bound in ("starts", "ends", "axes")]
                for tensor, number in zip(names, (start, end, axis), strict=True):
                    graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), tensor))
                yield helper.make_node("Slice", [value, *names], [prefix], prefix)
                parts = [prefix, *parts] if name == "before" else [*parts, prefix]
        output = node.output[0] if axis == padded[-1] else f"{node.name}.{axis}"
        yield helper.make_node("Concat", parts, [output], f"{node.name}.{axis}", axis=axis)
        value = output
    if not padded:
        yield helper.make_node("Identity", [value], [node.output[0]], node.name)
