"""Keep OpenVINO from normalizing integers: its low-precision transformations forget what eps is measured in.

Normalization divides by sqrt(variance + eps). OpenVINO (2026.4) moves a scale from before a normalization to behind
it, since the result hardly depends on the scale, but leaves eps as it is. The eps is then added to the variance of
integers, which is larger by 1 / scale^2. If the true variance is not far above eps, the outputs are wrong. Measured
with eps 1e-5 and a scale of 0.0001: 0.4 of the largest output for InstanceNormalization, 0.98 behind a convolution
without bias. The L2 normalization of a convolution's outputs, written out with an eps, becomes zero at every scale.

An addition between the two stops it, and a number that float32 rounds away is enough. Behind a convolution OpenVINO
fuses the addition.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from resnetrt.calibration.graph.structure import is_constant
from resnetrt.export.variants.nodes import add_constant, named_node
from resnetrt.export.variants.qdq import WEIGHTED

_NORMALIZATIONS = ("InstanceNormalization", "LayerNormalization", "GroupNormalization", "MeanVarianceNormalization")
_UNSEEN = np.float32(1e-30)  # less than half a unit in the last place of every number above 1e-22; 0 would be removed


def guard_normalizations(graph: ir.Graph) -> None:
    """Put the addition in front of every normalization of `graph`, also of those written in other operators."""
    guards: dict[str, ir.Value] = {}
    for value, readers in list(_normalized(graph)):
        name = value.name or ""
        if name not in guards:
            guards[name] = _guard(graph, value)
        for node in readers:
            for index, read in enumerate(node.inputs):
                if read is value:
                    node.replace_input_with(index, guards[name])


def _guard(graph: ir.Graph, value: ir.Value) -> ir.Value:
    name = f"{value.name}.guarded"
    unseen = add_constant(graph, f"{name}.by", _UNSEEN)
    node = named_node("Add", [value, unseen], name)
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.append(node)
    return node.outputs[0]


def _normalized(graph: ir.Graph) -> Iterator[tuple[ir.Value, list[ir.Node]]]:
    """Every value that is normalized, and the nodes of its normalization that read it."""
    for node in graph:
        value = node.inputs[0] if node.inputs else None
        if value is None or is_constant(value):
            continue
        if node.op_type in _NORMALIZATIONS:
            yield value, [node]
        elif node.op_type in ("Sub", "Div") and not _is_centred(value):
            path = _path(value, node.inputs[1])
            if any(step.op_type.startswith("Reduce") for step in path):
                yield value, [step for step in [node, *path] if any(read is value for read in step.inputs)]


def _is_centred(value: ir.Value) -> bool:
    """Whether `value` is a difference: what it is taken from is guarded, and a guard here would break the pattern."""
    producer = value.producer()
    return producer is not None and producer.op_type == "Sub"


def _path(top: ir.Value, value: ir.Value | None) -> list[ir.Node]:
    """The nodes that compute `value` from `top` without a layer among them; none if `value` is not computed from it."""
    reached: dict[int, bool] = {}
    nodes: list[ir.Node] = []

    def comes_from_top(value: ir.Value | None) -> bool:
        if value is top:
            return True
        node = None if value is None else value.producer()
        if node is None or node.op_type in WEIGHTED:
            return False
        if id(node) not in reached:
            reached[id(node)] = sum(map(comes_from_top, node.inputs)) > 0  # every input is looked at
            if reached[id(node)]:
                nodes.append(node)
        return reached[id(node)]

    comes_from_top(value)
    return nodes
