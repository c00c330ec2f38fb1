"""What a 16-bit ONNX file computes on a GPU, computed on the CPU: in float32, each tensor rounded to its 16-bit type.

ONNX Runtime's CPU has no BF16 convolution, and of FP16 it leaves out the roundings between nodes, so it would not see
an overflow. GPUs accumulate in float32 and round what a node writes; that is what this does.
"""

from pathlib import Path

import onnx_ir as ir

from resnetrt.export.cast.graph import FLOAT, load_typed
from resnetrt.export.cast.half_types import HALF_TYPES, HalfType


def write_rounded(path: Path, target: Path) -> None:
    """Write the float32 twin of the 16-bit ONNX file at `path` to `target`."""
    model = load_typed(str(path), 1)
    halves = {half.onnx: half for half in HALF_TYPES.values()}
    for value in model.graph.initializers.values():
        if value.dtype in halves and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
            value.dtype = FLOAT
    for node in list(model.graph):
        if node.op_type == "Cast" and node.attributes["to"].as_int() in halves:
            node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
        for output in node.outputs:
            if output.dtype in halves:
                _round(model.graph, node, output, halves[output.dtype])
    ir.save(model, str(target))


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, half: HalfType) -> None:
    """Put a cast to the 16-bit type and back behind `value`."""
    uses = list(value.uses())
    value.dtype = FLOAT
    down = ir.node("Cast", [value], {"to": int(half.onnx)}, name=f"{value.name}.round")
    up = ir.node("Cast", [down.outputs[0]], {"to": int(FLOAT)}, name=f"{value.name}.rounded")
    down.outputs[0].name, up.outputs[0].name = f"{value.name}.{half.name}.round", f"{value.name}.rounded"
    graph.insert_after(node, [down, up])
    for use in uses:
        use.node.replace_input_with(use.idx, up.outputs[0])
