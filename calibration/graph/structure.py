"""What a float graph's structure says about quantization: weighted layers, residual adds, values that share a scale.

The shortcut of a residual add is known, not guessed: of the two branches between the fork and the add it is the one
with fewer weighted layers (none for an identity or zero-padded shortcut, one for a projection).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.export.variants.qdq import WEIGHTED

# Operators that only move or select values: quantizing before or after them is the same, so both sides share a scale.
COMMUTING = (
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "Slice",
    "Pad",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
)

_FUSED = ("Relu", "Clip")  # that every backend runs in the layer before
_EXTREMA = ("ReduceMax", "ReduceMin")


@dataclass(frozen=True)
class ResidualAdd:
    """An `Add` of two computed values; `main` and `shortcut` are its inputs, `shortcut_index` their order."""

    node: ir.Node
    main: ir.Value
    shortcut: ir.Value
    shortcut_index: int


def weighted_layers(graph: ir.Graph) -> list[ir.Node]:
    """The Conv, Gemm and MatMul nodes of a computed value and weights that are an initializer, in graph order.

    A MatMul's are a matrix `(inputs, outputs)`: a Linear layer over the last axis.
    """
    return [node for node in graph if node.op_type in WEIGHTED and _has_weights(node)]


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer (also when it is absent)."""
    return value is None or value.const_value is not None


def convolution_outputs(graph: ir.Graph, left_out: Collection[str] = ()) -> list[ir.Value]:
    """The outputs of convolutions, except of those named in `left_out`.

    If a ReLU or Clip is the only reader, its output is taken instead.
    """
    outputs = []
    for layer in weighted_layers(graph):
        if layer.op_type != "Conv" or layer.name in left_out:
            continue
        value = layer.outputs[0]
        uses = list(value.uses())
        if len(uses) == 1 and uses[0].node.op_type in _FUSED:
            value = uses[0].node.outputs[0]
        if not value.is_graph_output():
            outputs.append(value)
    return outputs


def residual_adds(graph: ir.Graph) -> list[ResidualAdd]:
    """Every Add of two computed values, with its shortcut identified."""
    return [_residual(node) for node in graph if _is_residual(node)]


def scale_source(value: ir.Value, but: Collection[str] = ()) -> ir.Value:
    """The value at the top of the chain of commuting operators, those in `but` left out, above `value`; or itself."""
    producer = value.producer()
    while producer is not None and producer.op_type not in but and commutes(producer):
        value = _input(producer)
        producer = value.producer()
    return value


def commutes(node: ir.Node) -> bool:
    """Whether quantization passes through `node` unchanged; a Pad does only when it fills with zeros."""
    if node.op_type not in COMMUTING:
        return False
    if node.op_type != "Pad" or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    fill = node.inputs[2].const_value
    return fill is not None and not fill.numpy().any()


def computed_from_extremum(value: ir.Value | None) -> bool:
    """Whether `value` is computed, element by element or joined with others, from a maximum or minimum over axes.

    False if it is only moved: then it is one of the values over which the maximum was taken.
    """
    node = _maker(value)
    return node is not None and node.op_type not in _EXTREMA and _from_extremum(value)


def pad_amounts(node: ir.Node) -> npt.NDArray[np.int64] | None:
    """What a Pad puts in front and behind, `(2, axes)`; None where that is computed, or said of some axes only."""
    amounts = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return None if amounts is None or len(node.inputs) > 3 else amounts.numpy().reshape(2, -1)


def counts_padding(node: ir.Node) -> bool:
    """Whether an AveragePool takes the mean over padding too."""
    return node.attributes.get_int("count_include_pad", 0) == 1 and any(node.attributes.get_ints("pads", []))


def watched_values(graph: ir.Graph) -> list[ir.Value]:
    """Values that a dialect may quantize: inputs of weighted layers and adds, outputs of convolutions.

    With each, what commutes into it.
    """
    watched: dict[str, ir.Value] = {}

    def watch(value: ir.Value | None) -> None:
        while value is not None and not is_constant(value) and value.name not in watched:
            watched[value.name or ""] = value
            producer = value.producer()
            if producer is None or not commutes(producer):
                return
            value = producer.inputs[0]

    for layer in weighted_layers(graph):
        watch(layer.inputs[0])
    for add in residual_adds(graph):
        watch(add.main)
        watch(add.shortcut)
    for value in convolution_outputs(graph):
        watch(value)
    return list(watched.values())


def _from_extremum(value: ir.Value | None) -> bool:
    node = _maker(value)
    if node is None or node.op_type in WEIGHTED:
        return False
    computed = [each for each in node.inputs if not is_constant(each)]
    alone = len(computed) == 1 or node.op_type == "Concat"
    return node.op_type in _EXTREMA or (alone and any(map(_from_extremum, computed)))


def _maker(value: ir.Value | None) -> ir.Node | None:
    """The nearest node above `value` that does more than move it; None for an input or a constant."""
    return None if value is None else scale_source(value, _EXTREMA).producer()


def _has_weights(node: ir.Node) -> bool:
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or is_constant(node.inputs[0]):
        return False
    return node.op_type != "MatMul" or len(weight.const_value.shape) == 2


def _is_residual(node: ir.Node) -> bool:
    return node.op_type == "Add" and not any(is_constant(value) for value in node.inputs)


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _residual(node: ir.Node) -> ResidualAdd:
    first, second = node.inputs[0], node.inputs[1]
    assert first is not None
    assert second is not None
    above_first, above_second = list(_ancestry(first)), list(_ancestry(second))
    weights = [_weighted_until(above_first, above_second), _weighted_until(above_second, above_first)]
    index = 0 if weights[0] < weights[1] else 1
    main, shortcut = (second, first) if index == 0 else (first, second)
    return ResidualAdd(node, main, shortcut, index)


def _ancestry(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes above `value`, nearest first, through first inputs; every path of a residual network meets at the fork."""
    producer = value.producer()
    while producer is not None:
        yield producer
        above = producer.inputs[0] if producer.inputs else None
        producer = None if above is None else above.producer()


def _weighted_until(nodes: list[ir.Node], others: list[ir.Node]) -> int:
    """Weighted layers in `nodes` before the first one that `others` holds too."""
    shared = set(map(id, others))
    count = 0
    for node in nodes:
        if id(node) in shared:
            break
        count += node.op_type in WEIGHTED
    return count
