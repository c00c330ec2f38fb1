"""Cross-layer equalization: channels of very different range share one scale better after each is divided by a factor.

ReLU, pools and residual adds commute with positive factors per channel, so a layer's output channel can be divided and
every reader's weights multiplied by the same number without changing the network (Nagel et al. 2019, arXiv:1906.04721,
section 4.1). The factors follow measured ranges, so that activations, which have one scale for all channels, gain:
with r a channel's largest magnitude over that of its tensor, its factor is sqrt(r). Weights have a scale for each
output channel and lose little.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from resnetrt.calibration.graph.structure import commutes, is_constant, pad_amounts, weighted_layers
from resnetrt.export.variants.nodes import add_constant, serialised
from resnetrt.export.variants.parity import difference
from resnetrt.export.variants.qdq import WEIGHTED, output_axis
from resnetrt.preprocess import FloatArray

Factors = dict[str, npt.NDArray[np.float64]]
METADATA = "resnetrt.equalization"
_EXPONENT = 0.5
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_LEAST = 1e-6  # of a tensor's range; a channel below is as good as dead
# operators that commute with positive factors; if they move axes, `_same_channels` must prove that axis 1 stays
_HOMOGENEOUS = (
    *("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceMax"),
    *("Identity", "Dropout", "Slice", "Reshape", "Flatten", "Squeeze"),
)
_RESHAPES = ("Reshape", "Flatten", "Squeeze")


def find_factors(graph: ir.Graph, channel_amax: Mapping[str, npt.NDArray[np.float64]]) -> Factors:
    """Factors `(C,)` by name of every value that is to be divided; values whose factors are all one are left out.

    `channel_amax` holds the largest magnitude of each channel of the values that get scales; shapes must be known.
    """
    if any(attribute.type in _SUBGRAPHS for node in graph for attribute in node.attributes.values()):
        return {}  # a branch or loop reads values that no node of this graph shows
    channels = _Channels(graph)
    relative = np.zeros(channels.count)
    for name, amax in channel_amax.items():
        if name in channels.ids and amax.max() > 0:
            np.maximum.at(relative, channels.roots(name), amax / amax.max())
    factors = np.where(relative > 0, np.maximum(relative, _LEAST) ** _EXPONENT, 1.0)
    factors[channels.pinned()] = 1.0
    by_name = {name: factors[channels.roots(name)] for name in channels.ids}
    return {name: values for name, values in by_name.items() if (values != 1).any()}


def equalize(graph: ir.Graph, factors: Factors) -> None:
    """Divide the named values by their factors: rewrites weights and biases, nothing else."""
    for layer in weighted_layers(graph):
        source, weight, output = layer.inputs[0], layer.inputs[1], layer.outputs[0]
        assert source is not None
        assert weight is not None
        assert weight.const_value is not None
        array = weight.const_value.numpy().astype(np.float64)
        into, out = factors.get(source.name or ""), factors.get(output.name or "")
        transposed = output_axis(layer, array.ndim) != 0
        if transposed:
            array = array.T
        if into is not None:
            array = array * _per_input(into, array)
        if out is not None:
            array = array / out.reshape(-1, *[1] * (array.ndim - 1))
            bias = _own_bias(graph, layer)
            if bias is not None and bias.const_value is not None:
                _replace(bias, bias.const_value.numpy() / out)
        _replace(weight, array.T if transposed else array)


def changed_by(path: Path, factors: Factors, expected: FloatArray, images: FloatArray, noise: float = 0.0) -> str:
    """How the network at `path`, equalized, differs from its outputs `expected` for `images`; empty if it does not.

    The claim is exact but for rounding, so it is held to the tolerance of FP32; `noise` is the error of `expected`.
    """
    if not factors:
        return ""
    model = ir.load(str(path))
    equalize(model.graph, factors)
    return difference(expected, serialised(model), images, noise)


def note_factors(model: ir.Model, factors: Factors) -> None:
    """Write the factors into the model's metadata, so that its values can be compared with those of other files."""
    if factors:
        listed = {name: values.tolist() for name, values in factors.items()}
        model.metadata_props[METADATA] = json.dumps(listed, sort_keys=True)  # safetensors loads them in any order


def noted_factors(model: onnx.ModelProto) -> Factors:
    """The factors that `note_factors` wrote, shaped to divide `(N, C, ...)`; empty for any other model."""
    text = next((item.value for item in model.metadata_props if item.key == METADATA), "{}")
    return {name: np.asarray(values, np.float64) for name, values in json.loads(text).items()}


def along_channels(factors: npt.NDArray[np.float64], values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """`factors` `(C,)` in the shape that broadcasts over `values` `(N, C, ...)`."""
    return factors.astype(np.float32).reshape(1, -1, *[1] * (values.ndim - 2))


def _per_input(into: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors `(C,)` of the input in the shape of `weights` `(outputs, C / groups, ...)`."""
    outputs, each = weights.shape[:2]
    groups = len(into) // each
    rows = into.reshape(groups, each).repeat(outputs // groups, 0)
    return rows.reshape(outputs, each, *[1] * (weights.ndim - 2))


def _own_bias(graph: ir.Graph, layer: ir.Node) -> ir.Value | None:
    """The bias of `layer`, made its own where several read it: the exporter merges equal ones."""
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if bias is None or bias.const_value is None or len(bias.uses()) == 1:
        return bias
    own = add_constant(graph, f"{layer.name}/{bias.name}", bias.const_value.numpy())
    layer.replace_input_with(2, own)
    return own


def _replace(value: ir.Value, array: npt.NDArray[Any]) -> None:
    value.const_value = ir.Tensor(array.astype(np.float32), name=value.name)


class _Channels:
    """Which channels of which values must share a factor (union-find over all of them), and which can't have one."""

    def __init__(self, graph: ir.Graph) -> None:
        self.ids: dict[str, npt.NDArray[np.int64]] = {}
        self.count = 0
        values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
        for value in values:
            width = _width(value)
            if width is not None:
                self.ids[value.name or ""] = np.arange(self.count, self.count + width)
                self.count += width
        self._parent = np.arange(self.count)
        self._pinned = np.zeros(self.count, bool)
        for value in (*graph.inputs, *graph.outputs):
            self._pin(value)
        weights = [layer.inputs[1] for layer in weighted_layers(graph)]
        for node in graph:
            self._visit(node, shared=node.op_type in WEIGHTED and sum(w is node.inputs[1] for w in weights) != 1)

    def roots(self, name: str) -> npt.NDArray[np.int64]:
        """The group of each channel of a value."""
        return self._roots_of(self.ids[name])

    def pinned(self) -> npt.NDArray[np.int64]:
        """Groups that stay as they are."""
        return self._roots_of(np.flatnonzero(self._pinned))

    def _roots_of(self, channels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        while not np.array_equal(above := self._parent[channels], channels):
            channels = above
        return channels

    def _visit(self, node: ir.Node, shared: bool) -> None:
        values = [value for value in node.inputs if not is_constant(value)]
        output = node.outputs[0]
        for further in node.outputs[1:]:
            self._pin(further)
        if node.op_type in WEIGHTED and not shared and _is_plain(node):
            return
        if node.op_type in _HOMOGENEOUS and len(values) == 1 and _same_channels(node):
            self._join(values[0], output, 0)
        elif node.op_type == "Add" and len(values) == 2 and all(_alike(value, output) for value in values):
            self._join(values[0], output, 0)
            self._join(values[1], output, 0)
        elif node.op_type == "Pad" and (before := _zeros_before_channels(node)) is not None:
            self._join(values[0], output, before)
        else:
            for value in (*values, *node.outputs):
                self._pin(value)

    def _join(self, value: ir.Value | None, output: ir.Value, offset: int) -> None:
        assert value is not None
        if (value.name or "") not in self.ids:
            self._pin(output)
            return
        one = self.roots(value.name or "")
        two = self.roots(output.name or "")[offset : offset + len(one)]
        self._parent[np.maximum(one, two)] = np.minimum(one, two)

    def _pin(self, value: ir.Value | None) -> None:
        if value is not None and (value.name or "") in self.ids:
            self._pinned[self.ids[value.name or ""]] = True


def _width(value: ir.Value | None) -> int | None:
    """The number of channels, axis 1; None where it is unknown or there is none."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    width = value.shape[1]
    return width if isinstance(width, int) else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _alike(value: ir.Value | None, output: ir.Value) -> bool:
    """Whether axis 1 of both holds the same channels: of fewer axes, NumPy's rules would put it elsewhere."""
    return _width(value) is not None and _width(value) == _width(output) and _rank(value) == _rank(output)


def _is_plain(layer: ir.Node) -> bool:
    """Whether axis 1 of a weighted layer's input and output are what its weights and a constant bias belong to."""
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    transposed = layer.op_type == "Gemm" and layer.attributes.get_int("transA", 0) != 0
    over_others = layer.op_type == "MatMul" and _rank(layer.inputs[0]) != 2  # its weights belong to the last axis
    return is_constant(bias) and not transposed and not over_others


def _same_channels(node: ir.Node) -> bool:
    """Whether axis 1 of the output is proven to hold the channels of axis 1 of the input, each in its place."""
    value, output = node.inputs[0], node.outputs[0]
    if _width(value) is None or _width(value) != _width(output):
        return False
    if node.op_type in _RESHAPES:
        # as many elements of each image before and after: so images stay images, and channels their first division
        return (size := _image_size(value)) is not None and size == _image_size(output)
    if node.op_type == "Slice" or node.op_type.startswith("Reduce"):
        axes = _axes(node, 3 if node.op_type == "Slice" else 1)
        return axes is not None and not axes & {0, 1}
    return True


def _image_size(value: ir.Value | None) -> int | None:
    """Elements of all axes but the first; None where one is unknown."""
    sizes = [] if value is None or value.shape is None else list(value.shape)[1:]
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if known and len(known) == len(sizes) else None


def _axes(node: ir.Node, place: int) -> set[int] | None:
    """The axes that input number `place` of a node names, counted from the first; None where they are not constant."""
    axes = node.inputs[place] if len(node.inputs) > place else None
    rank = _rank(node.inputs[0])
    if axes is None or axes.const_value is None or rank is None:
        return None
    return {int(axis) % rank for axis in axes.const_value.numpy()}


def _zeros_before_channels(node: ir.Node) -> int | None:
    """How many channels a Pad puts before those it is given; None unless it adds zeros in constant numbers."""
    amounts = pad_amounts(node)
    mode = node.attributes.get_string("mode", "constant")
    if amounts is None or mode != "constant" or not commutes(node):
        return None
    before, after = amounts[:, 1]
    return int(before) if min(before, after) >= 0 else None  # a negative number takes channels away
