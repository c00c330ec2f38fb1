"""Values stored as x' = x - offset: which operators hand an offset on, which take it into a bias; and its note."""

import json
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from resnetrt.calibration.graph.structure import counts_padding, is_constant

METADATA = "resnetrt.offsets"
CLAMPS = ("Relu", "Clip")
_MOVING = ("MaxPool", "ReduceMax", "ReduceMin", "Slice", "Identity", "Dropout", "Reshape", "Flatten", "Transpose")
_AVERAGING = ("GlobalAveragePool", "ReduceMean")
_SAME = (*_MOVING, *_AVERAGING, "Squeeze", "Unsqueeze", "Relu")


def absorbs(node: ir.Node) -> bool:
    """Whether `node` is a layer whose bias can take the offset of its input and that of its output."""
    if node.op_type not in ("Conv", "Gemm") or is_constant(node.inputs[0]) or not is_constant(node.inputs[1]):
        return False
    if len(node.inputs) > 2 and not is_constant(node.inputs[2]):
        return False
    if node.op_type == "Conv":
        return node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return not scaled and node.attributes.get_int("transA", 0) == 0


def paddings(layer: ir.Node) -> tuple[int, ...]:
    """The zeros that a convolution puts around its input, in front and behind; empty without any."""
    amounts = tuple(layer.attributes.get_ints("pads", ()))
    return amounts if any(amounts) else ()


def passed_on(node: ir.Node, offsets: Sequence[float]) -> float | None:
    """The offset of the output of `node`, no layer, if its inputs have these; None if it must read real values.

    A clamp's limits and what a Pad fills in are to be shifted as well. Outputs of the graph have no offset.
    """
    if any(output.is_graph_output() for output in node.outputs):
        return None
    if node.op_type == "Add":
        return sum(offsets)
    if node.op_type == "Sub":
        return offsets[0] - offsets[1]
    if node.op_type == "Concat":
        return offsets[0] if len(set(offsets)) == 1 else None
    if node.op_type == "AveragePool":
        return None if counts_padding(node) else offsets[0]
    if node.op_type in ("Clip", "Pad"):
        return offsets[0] if all(map(is_constant, node.inputs[1:])) else None
    return offsets[0] if node.op_type in _SAME else None


def note_offsets(model: ir.Model, offsets: Mapping[str, float]) -> None:
    """Write the offsets by value name into the metadata, so that values can be compared with those of other files."""
    if offsets:
        model.metadata_props[METADATA] = json.dumps(dict(sorted(offsets.items())))


def noted_offsets(model: onnx.ModelProto) -> dict[str, float]:
    """What `note_offsets` wrote; empty for any other model."""
    text = next((item.value for item in model.metadata_props if item.key == METADATA), "{}")
    return {name: float(offset) for name, offset in json.loads(text).items()}
