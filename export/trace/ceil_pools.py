"""Write pools in ceil mode as pools in floor mode with the equivalent extra padding at the end.

Eager and ONNX Runtime leave out a window that would begin in the padding at the end. Shape inference of ONNX 1.23 and
max pools of OpenVINO 2026.4 count such a window, so the file declares wrong sizes. OpenVINO also divides the last
windows of an average pool by a different number of pixels. In floor mode all agree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[np.int64]
_POOLS = ("AveragePool", "MaxPool")


def rewrite_ceil_pools(model: onnx.ModelProto) -> None:
    """Replace ceil mode in every pool whose input has known sizes; names of outputs stay.

    Left as it is: a dilated max pool that would be padded by more than its kernel, which ONNX Runtime refuses.
    """
    for node in [node for node in model.graph.node if node.op_type in _POOLS]:
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if options.pop("ceil_mode", 0) and options.get("auto_pad", b"NOTSET") == b"NOTSET":
            # infer again for each: sizes after a pool in ceil mode may be wrong
            sizes = _sizes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph, node.input[0])
            if sizes:
                _replace(model.graph, node, _in_floor_mode(node, options, sizes, model.graph))


def _sizes(graph: onnx.GraphProto, name: str) -> list[int]:
    """Of the axes behind the channels; empty unless all are known."""
    values = (value for value in (*graph.input, *graph.value_info) if value.name == name)
    dims = [dim for value in values for dim in value.type.tensor_type.shape.dim][2:]
    return [dim.dim_value for dim in dims] if all(dim.dim_value for dim in dims) else []


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, others: Sequence[onnx.NodeProto]) -> None:
    place = list(graph.node).index(node)
    nodes = [*graph.node[:place], *others, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)


def _in_floor_mode(
    node: onnx.NodeProto, options: dict[str, Any], sizes: list[int], graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The nodes that stand for `node`, whose attributes but ceil mode are `options`."""
    pads = np.array(options.get("pads", [0] * 2 * len(sizes))).reshape(2, -1)
    more = overhang(options, pads, sizes)
    if more.any() and (pads[1] + more >= options["kernel_shape"]).any():
        return [node]
    nodes = []
    value = node.input[0]
    if options.get("count_include_pad") and more.any():
        # padding counts in the mean, the overhang does not: so padding becomes pixels, and the overhang becomes padding
        if pads.any():
            amounts = np.pad(pads, ((0, 0), (2, 0))).reshape(-1).astype(np.int64)
            graph.initializer.append(numpy_helper.from_array(amounts, f"{node.name}.pads"))
            value = f"{node.name}.pad"
            nodes.append(helper.make_node("Pad", [node.input[0], f"{node.name}.pads"], [value], value))
        pads, options = np.zeros_like(pads), options | {"count_include_pad": 0}
    options = options | {"pads": [*pads[0], *(pads[1] + more)]}
    return [*nodes, helper.make_node(node.op_type, [value], list(node.output), node.name, **options)]


def overhang(options: Mapping[str, Any], pads: Array, sizes: Sequence[int]) -> Array:
    """How far the last window of ceil mode reaches beyond the padded image, for each axis; `pads` is `(2, axes)`.

    `options` has a pool's ONNX attributes `kernel_shape`, `strides` and `dilations`, `sizes` those of the image.
    """
    ones = [1] * len(sizes)
    strides, dilations = np.array(options.get("strides", ones)), np.array(options.get("dilations", ones))
    reach = (np.array(options["kernel_shape"]) - 1) * dilations + 1
    padded = np.array(sizes) + pads.sum(0)
    last = -(-(padded - reach) // strides) * strides
    return np.where(last < np.array(sizes) + pads[0], np.maximum(last + reach - padded, 0), 0)
