"""What a parsed TensorRT network says about itself: inputs, outputs, and the precision of each ONNX node."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
    found = {item.onnx: item.precision for item in layers}
    return found | {item.onnx: item.precision for item in layers if item.type in COMPUTE}


def check_target_types(flavour: Flavour, layers: list[NetworkLayer], capabilities: list[int], what: str) -> None:
    """Raise `UsageError` for a type that `flavour` has no kernels for on a target, naming the first layer."""
    for precision, (least, reason) in flavour.least_capability.items():
        low = [f"sm{number}" for number in capabilities if number < least]
        found = next((item for item in layers if item.precision == precision and item.type in COMPUTE), None)
        if low and found is not None:
            remedies = [f"leave {', '.join(low)} out of --target"] if flavour.ahead_of_time else []
            remedies += ["choose --precision fp16"] if precision != "fp8" or not remedies else []
            raise UsageError(f"{what}: {reason}, and layer {found.onnx} is {precision}; {' or '.join(remedies)}")


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
