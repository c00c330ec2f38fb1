"""What a parsed TensorRT network says about itself: inputs, outputs, and the precision of each ONNX node."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import UsageError
from resnetrt.export.compilers.tensorrt.flavour import Flavour
from resnetrt.runtime.backends.tensorrt_inspector import tensor_spec, word
from resnetrt.tensor_spec import TensorSpec

COMPUTE = ("CONVOLUTION", "MATRIX_MULTIPLY")
_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}
_MOVES = ("CONSTANT", "SHUFFLE", "CAST", "QUANTIZE", "DEQUANTIZE", "SHAPE", "IDENTITY")


@dataclass(frozen=True)
class NetworkLayer:
    """A layer as parsed: TensorRT's type, the ONNX node it comes from, the precision that its types ask for."""

    type: str
    onnx: str
    precision: str


def input_specs(network: Any) -> tuple[TensorSpec, ...]:
    """The network's inputs."""
    return tuple(_spec(network.get_input(i)) for i in range(network.num_inputs))


def output_specs(network: Any) -> tuple[TensorSpec, ...]:
    """The network's outputs."""
    return tuple(_spec(network.get_output(i)) for i in range(network.num_outputs))


def network_layers(network: Any) -> list[NetworkLayer]:
    """The layers that compute, in order. What reads dequantized tensors only is `int8` or `fp8`."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantized = {
        layer.get_output(0).name: word(layer.get_input(0).dtype) for layer in layers if word(layer.type) == "DEQUANTIZE"
    }
    return [
        NetworkLayer(word(layer.type), _onnx_node(layer), _precision(layer, quantized))
        for layer in layers
        if word(layer.type) not in _MOVES
    ]


def precision_by_node(layers: list[NetworkLayer]) -> dict[str, str]:
    """The precision of each ONNX node; of one that became several layers, that of its convolution or product."""
    precisions = {item.onnx: item.precision for item in layers}
    return precisions | {item.onnx: item.precision for item in layers if item.type in COMPUTE}


def check_target_types(flavour: Flavour, layers: list[NetworkLayer], capabilities: list[int], what: str) -> None:
    """Raise `UsageError` for a type that `flavour` has no kernels for on a target, naming the first layer."""
    for precision, (least, reason) in flavour.least_capability.items():
        low = [f"sm{number}" for number in capabilities if number < least]
        first = next((item for item in layers if item.precision == precision and item.type in COMPUTE), None)
        if low and first is not None:
            remedies = [f"leave {', '.join(low)} out of --target"] if flavour.ahead_of_time else []
            remedies += ["choose --precision fp16"] if precision != "fp8" or not remedies else []
            raise UsageError(f"{what}: {reason}, and layer {first.onnx} is {precision}; {' or '.join(remedies)}")


def sparse_layers(trt: Any, network: Any) -> tuple[int, int]:
    """How many layers have 2:4 sparse weights, and how many have weights at all.

    Sparse is a layer whose every four weights along the input channels, for each output and place, hold two zeros at
    least, as TensorRT's Developer Guide defines it. A rest of fewer than four channels does not count.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(0).name: layer for layer in layers}
    rows = [rows for layer in layers if (rows := _rows(trt, layer, makers)) is not None]
    return sum(map(_is_sparse, rows)), len(rows)


def _is_sparse(rows: npt.NDArray[Any]) -> bool:
    whole = rows.shape[1] // 4 * 4
    groups = rows[:, :whole].reshape(len(rows), -1, 4)
    return whole > 0 and bool(((groups == 0).sum(2) >= 2).all())


def _rows(trt: Any, layer: Any, makers: dict[str, Any]) -> npt.NDArray[Any] | None:
    """The weights of a convolution or product, (other axes, input channels); None for other layers."""
    if word(layer.type) == "CONVOLUTION":
        kernel = _kernel(trt, layer, makers)
        return None if kernel is None else np.moveaxis(kernel, 1, -1).reshape(-1, kernel.shape[1])
    if word(layer.type) == "MATRIX_MULTIPLY":
        matrix = _constant(trt, layer.get_input(1), makers)
        product = layer
        product.__class__ = trt.IMatrixMultiplyLayer  # a binding's layer has its own names only so
        if matrix is None or matrix.ndim != 2:
            return None
        return matrix if word(product.op1) == "TRANSPOSE" else matrix.T
    return None


def _kernel(trt: Any, layer: Any, makers: dict[str, Any]) -> npt.NDArray[Any] | None:
    """The kernel (K, C, R, S): the layer's own, or what it reads from a constant, as quantized ones do."""
    if layer.num_inputs > 1:
        return _constant(trt, layer.get_input(1), makers)
    convolution = layer
    convolution.__class__ = trt.IConvolutionLayer
    return np.asarray(convolution.kernel).reshape(convolution.num_output_maps, -1, *convolution.kernel_size_nd)


def _constant(trt: Any, tensor: Any, makers: dict[str, Any]) -> npt.NDArray[Any] | None:
    """The values of a tensor that is constant but for its scale and type; None for one that is computed."""
    maker = makers.get(tensor.name)
    while maker is not None and word(maker.type) in ("CAST", "DEQUANTIZE", "QUANTIZE"):
        maker = makers.get(maker.get_input(0).name)
    if maker is None or word(maker.type) != "CONSTANT":
        return None
    constant = maker
    constant.__class__ = trt.IConstantLayer
    return np.asarray(constant.weights).reshape(tuple(tensor.shape))


def _spec(tensor: Any) -> TensorSpec:
    return tensor_spec(tensor.name, tensor.dtype, tensor.shape)


def _onnx_node(layer: Any) -> str:
    text = str(layer.metadata)
    return text.removeprefix("[ONNX Layer: ").removesuffix("]") if text.startswith("[ONNX Layer: ") else layer.name


def _precision(layer: Any, quantized: dict[str, str]) -> str:
    types = {quantized.get(tensor.name, word(tensor.dtype)) for tensor in _floats(layer)}
    if len(types) > 1:  # a float operand, as the shortcut of a residual add is quantized alone
        types -= {"INT8", "FP8"}
    name = next(iter(sorted(types)), word(layer.get_output(0).dtype))
    return _PRECISIONS.get(name, name.lower())


def _floats(layer: Any) -> Iterator[Any]:
    """Inputs that carry data: for a convolution the image and the kernel, not the bias."""
    count = min(layer.num_inputs, 2)
    for tensor in (layer.get_input(i) for i in range(count)):
        if tensor is not None and word(tensor.dtype) in _PRECISIONS:
            yield tensor
