"""Read a Q/DQ graph that any tool wrote: its layers, and the quantizers that feed them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from resnetrt.calibration.graph.structure import COMMUTING

_INTEGER_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear of the float `value`: per-tensor scale and zero point, and the integers' type."""

    node: str
    value: str
    scale: float
    zero_point: int
    dtype: str

    @property
    def limits(self) -> tuple[float, float]:
        """The real values of the smallest and largest integer."""
        qmin, qmax = _INTEGER_LIMITS.get(self.dtype, (-128, 127))
        return self.scale * (qmin - self.zero_point), self.scale * (qmax - self.zero_point)


class QdqGraph:
    """Look-ups over an ONNX graph with QuantizeLinear and DequantizeLinear nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = model.graph.node
        self.producers = {output: node for node in self.nodes for output in node.output}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._inputs = {value.name for value in model.graph.input} - set(self._tensors)
        self._outputs = {value.name for value in model.graph.output}

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The array of an initializer or a Constant node; None for any other value."""
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        node = self.producers.get(name)
        if node is not None and node.op_type == "Constant":
            return next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), None)
        return None

    def layers(self, operators: Sequence[str]) -> list[onnx.NodeProto]:
        """Nodes of these operators in graph order; an Add only if both of its inputs are computed."""
        layers = []
        for node in self.nodes:
            biased = node.op_type == "Add" and any(self.dequantized_constant(name) is not None for name in node.input)
            if node.op_type in operators and not biased:
                layers.append(node)
        return layers

    def quantized_values(self) -> set[str]:
        """Computed values that a QuantizeLinear reads, graph inputs left out."""
        read = {node.input[0] for node in self.nodes if node.op_type == "QuantizeLinear"}
        return {name for name in read if name not in self._inputs and self.constant(name) is None}

    def dequantizer(self, value: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes `value`, seen through operators that only move values."""
        node = self.producers.get(value)
        while node is not None and node.op_type in COMMUTING:
            node = self.producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def dequantized_constant(self, value: str) -> npt.NDArray[Any] | None:
        """A constant, or the stored integers behind a DequantizeLinear of one; None for a computed value."""
        constant = self.constant(value)
        if constant is not None:
            return constant
        node = self.producers.get(value)
        if node is None or node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
            return None
        return self.dequantized_constant(node.input[0])

    def quantizers_of(self, node: onnx.NodeProto) -> Iterator[Quantizer]:
        """The per-tensor activation quantizers whose values `node` reads."""
        for name in node.input:
            dequantizer = self.dequantizer(name)
            if dequantizer is None or self.dequantized_constant(dequantizer.input[0]) is not None:
                continue
            quantize = self.producers.get(dequantizer.input[0])
            while quantize is not None and quantize.op_type in COMMUTING:
                quantize = self.producers.get(quantize.input[0])
            if quantize is not None and quantize.op_type == "QuantizeLinear":
                quantizer = self.quantizer(quantize)
                if quantizer is not None:
                    yield quantizer

    def quantizer(self, node: onnx.NodeProto) -> Quantizer | None:
        """A QuantizeLinear's parameters; None if they are not one constant scale."""
        scale = self.constant(node.input[1])
        zero = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else _no_zero_point(node)
        if scale is None or zero is None or scale.size != 1 or zero.size != 1:
            return None
        return Quantizer(node.name, node.input[0], float(scale.reshape(())), int(zero.reshape(())), zero.dtype.name)


def _no_zero_point(node: onnx.NodeProto) -> npt.NDArray[Any]:
    """The zero that stands for an absent zero point; its type is `output_dtype` (opset 21), else uint8."""
    chosen = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
    return np.zeros(1, onnx.helper.tensor_dtype_to_np_dtype(chosen or onnx.TensorProto.UINT8))
