"""INT8 files whose float layers compute in 16 bits: islands between INT8 layers, or one carrier under all of them."""

from collections.abc import Collection, Mapping
from pathlib import Path

import onnx_ir as ir

from resnetrt.export.cast.cast import cast_to_half
from resnetrt.export.cast.graph import cast_graph, load_typed
from resnetrt.export.cast.half_range import layers_out_of_range
from resnetrt.export.cast.half_types import HALF_OPERATORS, HALF_TYPES
from resnetrt.export.variants.nodes import serialised
from resnetrt.export.variants.qdq import WEIGHTED

_NEVER = ("QuantizeLinear", "DequantizeLinear", *WEIGHTED)  # unless named


def cast_islands(path: Path, precision: str, layers: Collection[str], amax: Mapping[str, float]) -> bytes:
    """The Q/DQ file at `path` with the nodes named in `layers`, and what lies between them, in `precision`.

    Quantizers and everything else stay as they are, so INT8 layers compute the same bits. A layer whose weights or
    activations (`amax`, largest magnitude by tensor) do not fit `precision` stays FP32.
    """
    half = HALF_TYPES[precision]
    model = load_typed(str(path), half.least_opset)
    wanted = island_nodes(model.graph, layers) - layers_out_of_range(model.graph, half, amax).keys()
    cast_graph(model.graph, half, {node.name or "" for node in model.graph} - wanted)
    model.graph.sort()
    return serialised(model)


def cast_carrier(path: Path, precision: str, amax: Mapping[str, float]) -> bytes:
    """The Q/DQ file at `path` with everything float in `precision`, as TensorRT wants it; scales are made to fit."""
    half = HALF_TYPES[precision]
    model = load_typed(str(path), half.least_opset)
    cast_to_half(model.graph, half, amax, fit=True)
    return serialised(model)


def island_nodes(graph: ir.Graph, layers: Collection[str]) -> set[str]:
    """`layers`, and the nodes whose computed inputs all come from them: activations, pools, reshapes."""
    names = set(layers)
    for node in graph:
        computed = [value.producer() for value in node.inputs if value is not None and value.const_value is None]
        follows = computed and all(producer is not None and producer.name in names for producer in computed)
        if follows and node.op_type in HALF_OPERATORS and node.op_type not in _NEVER:
            names.add(node.name or "")
    return names
