"""Which tensors of a Q/DQ file hold what the FP32 file holds under the same name.

Another tool may keep BatchNorms separate, scale channels or move an activation, and still keep the names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from resnetrt.calibration.graph.dialects import METADATA
from resnetrt.calibration.graph.qdq_graph import QdqGraph
from resnetrt.calibration.graph.structure import COMMUTING
from resnetrt.export.variants.inner_values import InnerValues
from resnetrt.parity import sqnr_db

# Without activation quantizers only rounded weights and clipping differ: 25 to 45 dB on ResNets, while a tensor from
# in front of a BatchNorm and one from behind it agree to less than 5 dB.
_SAME_FUNCTION_DB, _OTHER_QUANTITY_DB = 20.0, 10.0


def other_quantities(
    quantized: onnx.ModelProto,
    exact: Mapping[str, npt.NDArray[Any]],
    batch: npt.NDArray[Any],
    limits: Mapping[str, tuple[float, float]],
) -> frozenset[str]:
    """Names among `exact`, the FP32 file's values for `batch`, under which `quantized` holds a different quantity.

    Values are compared within `limits` if given. No names are returned if the outputs differ too, because then a layer
    is at fault; nor for a file made here, where any difference comes from quantization.
    """
    if any(item.key == METADATA for item in quantized.metadata_props):
        return frozenset()
    outputs = [value.name for value in quantized.graph.output]
    try:
        approximate = InnerValues(without_quantizers(quantized), exact.keys() - set(outputs)).of(batch)
    except Exception:  # another tool's file may compute on integers between its pairs; then every layer is judged
        return frozenset()

    def agreement(name: str) -> float:
        values = [
            np.clip(value, *limits[name]) if name in limits else value for value in (exact[name], approximate[name])
        ]
        return sqnr_db(*values) if values[0].shape == values[1].shape else -np.inf

    if any(name in exact and agreement(name) < _SAME_FUNCTION_DB for name in outputs):
        return frozenset()
    return frozenset(name for name in exact.keys() & approximate.keys() if agreement(name) < _OTHER_QUANTITY_DB)


def without_quantizers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that clips activations instead of quantizing them: the limits may be all that is left of a ReLU."""
    copy, graph = onnx.ModelProto(), QdqGraph(model)
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    quantizes = [n for n in copy.graph.node if n.op_type == "QuantizeLinear" and not _is_constant(graph, n)]
    made = {node.output[0] for node in quantizes}
    for node in copy.graph.node:  # in order: operators that move quantized values come before the dequantization
        if node.op_type in COMMUTING and node.input[0] in made:
            made.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in made:  # frames are integers from the start
            _become(node, "Identity", [])
    for node in quantizes:
        quantizer = graph.quantizer(node)
        limits = [] if quantizer is None else _constants(copy, node.name, quantizer.limits)
        _become(node, "Clip" if limits else "Identity", limits)
    return copy


def _is_constant(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    return graph.dequantized_constant(node.input[0]) is not None


def _become(node: onnx.NodeProto, operator: str, limits: list[str]) -> None:
    node.op_type, node.input[1:] = operator, limits
    del node.attribute[:]


def _constants(model: onnx.ModelProto, name: str, values: Iterable[float]) -> list[str]:
    arrays = {f"{name}@{end}": np.array(value, np.float32) for end, value in zip(("low", "high"), values, strict=True)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in arrays.items())
    return list(arrays)
