"""Write Q/DQ pairs, integer weights and biases into a float graph (ONNX QuantizeLinear/DequantizeLinear)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.calibration.graph.structure import weighted_layers
from resnetrt.calibration.observe.ranges import QuantParams
from resnetrt.calibration.quantize.learn_rounding import LearnedRounding
from resnetrt.calibration.quantize.round_weights import quantize_weights
from resnetrt.export.variants.nodes import add_constant, drop_unused
from resnetrt.export.variants.qdq import along, insert_pair, output_axis, store_quantized
from resnetrt.progress import track

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class LayerInput:
    """The quantized input of a layer: its scale, and the mean of each channel `(C,)` over the calibration images."""

    scale: float
    means: npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerOptions:
    """How weights and biases are stored; see `quantize_layers`."""

    integer_bias: bool
    bias_correction: bool = True
    weight_max: int = 127
    weight_method: str = "amax"
    rounding: LearnedRounding | None = None


def insert_activation_pairs(
    graph: ir.Graph, params: dict[str, QuantParams], keep_float: frozenset[str] = frozenset()
) -> None:
    """Put a QuantizeLinear/DequantizeLinear pair behind each named value; its consumers read the result.

    Nodes named in `keep_float` go on reading the float value.
    """
    values = {value.name: value for value in graph.inputs}
    values |= {output.name: output for node in graph for output in node.outputs}
    for name, chosen in params.items():
        value = values[name]
        uses = [use for use in value.uses() if use.node.name not in keep_float]
        zero_point = np.array(chosen.zero_point, chosen.dtype)
        _, dequantized = insert_pair(graph, value, np.float32(chosen.scale), zero_point)
        for use in uses:
            use.node.replace_input_with(use.idx, dequantized)


def quantize_layers(graph: ir.Graph, inputs: Mapping[str, LayerInput], options: LayerOptions) -> None:
    """Replace the float weights of every layer named in `inputs` by int8 ones, symmetric per output channel.

    Rounding the weights shifts the mean of each output by (W' - W) E[x]; with `options.bias_correction` the bias takes
    that back (Nagel et al. 2019, arXiv:1906.04721, section 4.2, with the measured input means). With
    `options.integer_bias` biases become int32 with scale input x weight.
    """
    layers: Iterable[ir.Node] = weighted_layers(graph)
    if options.rounding is not None:
        layers = track(layers, "learning to round", len(weighted_layers(graph)), "layers")
    for layer in layers:
        if (source := inputs.get(layer.name or "")) is not None:
            _quantize_layer(graph, layer, source, options)


def _quantize_layer(graph: ir.Graph, layer: ir.Node, source: LayerInput, options: LayerOptions) -> None:
    weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    assert weight is not None
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    axis = output_axis(layer, array.ndim)
    least = _least_scales(bias, source.scale, array.shape[axis]) if options.integer_bias else None
    integers, scales = quantize_weights(array, axis, options.weight_max, least, options.weight_method)
    if options.rounding is not None:
        integers = options.rounding.round(layer, array, axis, integers, scales, options.weight_max)
    store_quantized(graph, layer, 1, integers, scales, axis)
    if bias is None or bias.const_value is None:
        return
    values: npt.NDArray[np.float64] = bias.const_value.numpy().astype(np.float64)
    if options.bias_correction:
        error: npt.NDArray[np.float64] = integers * along(scales.astype(np.float64), axis, array.ndim) - array
        values = values - mean_shift(error, axis, source.means)
    if options.integer_bias:
        bias_scales = (scales * np.float32(source.scale)).astype(np.float32)
        stored = np.clip(np.rint(values / bias_scales), -_INT32_MAX, _INT32_MAX).astype(np.int32)
        store_quantized(graph, layer, 2, stored, bias_scales, 0)
    elif options.bias_correction:
        corrected = add_constant(graph, f"{layer.name}/{bias.name}.corrected", values.astype(np.float32))
        layer.replace_input_with(2, corrected)
        drop_unused(graph, bias)


def mean_shift(error: npt.NDArray[np.float64], axis: int, means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a weight error adds to the mean of each output, `(outputs,)`, for inputs with the channel means `(C,)`.

    Weights are `(outputs, C / groups, ...)` or, with `axis` 1, `(C, outputs)`. Zero padding at the border is left out.
    """
    moved = np.moveaxis(error, axis, 0)
    per_channel = moved.reshape(*moved.shape[:2], -1).sum(2)
    groups = len(means) // per_channel.shape[1]
    grouped = means.reshape(groups, -1).repeat(len(per_channel) // groups, 0)
    return np.asarray((per_channel * grouped).sum(1))


def _least_scales(bias: ir.Value | None, input_scale: float, outputs: int) -> npt.NDArray[np.float32] | None:
    """Weight scales below which the bias would not fit into int32 (a dead channel has tiny weights, not bias)."""
    if bias is None or bias.const_value is None:
        return None
    magnitude = np.abs(bias.const_value.numpy().astype(np.float64)).reshape(outputs)
    return (magnitude / (input_scale * _INT32_MAX) * (1 + 1e-6)).astype(np.float32)
