"""Bake the preprocessing into a graph, so that it takes camera frames: uint8 `(N, H, W, C)` instead of normalised NCHW.

In an INT8 graph pixels enter the first convolution exactly, because they are integers already. With p the pixel,
w (p/255 - mean)/std = (w/std) p/255 - (w mean/std), and the second term is a convolution of the constant one over the
image: a fourth channel that is one inside and, like every channel, zero in the padding. So the borders are exact too,
which a corrected bias alone would not be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.calibration.graph.dialects import Dialect
from resnetrt.calibration.observe.ranges import QuantParams
from resnetrt.calibration.quantize.insert_qdq import LayerInput
from resnetrt.errors import UsageError
from resnetrt.export.variants.nodes import add_constant, drop_unused, named_node
from resnetrt.preprocess import Preprocessing

PIXELS = "pixels"
_SCALE = float(np.float32(1 / 255))


@dataclass(frozen=True)
class BakedInput:
    """The first layer's name and its quantized input; `pair` is still to be put behind `PIXELS`, if any."""

    layer: str
    source: LayerInput
    pair: QuantParams | None


def bake_float(graph: ir.Graph, preprocessing: Preprocessing) -> str:
    """Put the preprocessing, as it is, in front of a float graph; returns the name of the normalised images.

    Raises `UsageError` if there are several inputs.
    """
    old = _only_input(graph)
    frames = _frames_input(graph, old)
    channel_shape = (1, -1, 1, 1)
    value: ir.Value = frames
    steps: list[tuple[str, list[ir.Value], dict[str, int | Sequence[int]]]] = [
        ("Cast", [], {"to": int(ir.DataType.FLOAT)}),  # first: it is all that TensorRT does with uint8
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Div", [add_constant(graph, "pixel_scale", np.float32(255))], {}),
        ("Sub", [add_constant(graph, "pixel_mean", _float(preprocessing.mean).reshape(channel_shape))], {}),
        ("Div", [add_constant(graph, "pixel_std", _float(preprocessing.std).reshape(channel_shape))], {}),
    ]
    nodes = []
    for index, (operator, constants, attributes) in enumerate(steps):
        node = named_node(operator, [value, *constants], f"preprocessing.{index}", attributes)
        value = node.outputs[0]
        nodes.append(node)
    ir.convenience.replace_all_uses_with(old, value)
    graph.insert_before(graph[0], nodes)
    assert value.name is not None
    return value.name


def bake_integer(
    graph: ir.Graph, preprocessing: Preprocessing, rules: Dialect, input_means: npt.NDArray[np.float64]
) -> BakedInput:
    """Make the first convolution read pixels as integers; its weights become `(outputs, C + 1, kH, kW)`.

    `input_means` `(C,)` are those of the normalised input, for bias correction. Raises `UsageError` unless one
    convolution alone reads the input.
    """
    old = _only_input(graph)
    layer = only_convolution(old)
    frames = _frames_input(graph, old)
    grid = _GRIDS[rules.pixels]
    _widen_weights(graph, layer, preprocessing, grid)
    mean = _float(preprocessing.mean).astype(np.float64) + _float(preprocessing.std) * input_means
    means = np.append(mean - grid.centre / 255, grid.one)
    nodes, value = _NODES[rules.pixels](graph, frames)
    graph.insert_before(graph[0], nodes)
    layer.replace_input_with(0, value)
    return BakedInput(layer.name or "", LayerInput(_SCALE, means), grid.pair)


@dataclass(frozen=True)
class _Grid:
    """Integers (p - `centre`), worth `_SCALE` each; `one` is the constant channel. `pair` is still to be put in."""

    centre: int
    one: float
    pair: QuantParams | None


_GRIDS = {
    "raw": _Grid(0, 1.0, None),
    "paired": _Grid(0, 1.0, QuantParams(_SCALE, 0, "uint8")),
    "centred": _Grid(128, 127 / 255, QuantParams(_SCALE, 0, "int8")),
}


def _raw_pixels(graph: ir.Graph, frames: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """uint8 pixels with a channel of 255, dequantized."""
    padded = _pad_channel(graph, frames, -1, np.array(255, np.uint8))
    moved = named_node("Transpose", [padded.outputs[0]], f"{PIXELS}.quantized", {"perm": [0, 3, 1, 2]})
    scale = add_constant(graph, f"{PIXELS}.scale", np.float32(_SCALE))
    zero = add_constant(graph, f"{PIXELS}.zero_point", np.array(0, np.uint8))
    dequantize = named_node("DequantizeLinear", [moved.outputs[0], scale, zero], f"{PIXELS}.dequantized")
    return [padded, moved, dequantize], dequantize.outputs[0]


def _paired_pixels(graph: ir.Graph, frames: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """p/255 as float NCHW with a channel of one at the end: exact under a pair of scale 1/255.

    OpenVINO runs a convolution on integers only behind a pair, and then drops scaling and pair as they change nothing;
    and it pads planes of bytes five times as fast as channels.
    """
    moved = named_node("Transpose", [frames], f"{PIXELS}.nchw", {"perm": [0, 3, 1, 2]})
    padded = _pad_channel(graph, moved.outputs[0], 1, np.array(255, np.uint8))
    cast = named_node("Cast", [padded.outputs[0]], f"{PIXELS}.float", {"to": int(ir.DataType.FLOAT)})
    scaled = named_node("Mul", [cast.outputs[0], add_constant(graph, f"{PIXELS}.factor", np.float32(_SCALE))], PIXELS)
    return [moved, padded, cast, scaled], scaled.outputs[0]


def _centred_pixels(graph: ir.Graph, frames: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """(p - 128)/255 as float, with a channel of 127/255: exact under a symmetric pair of scale 1/255."""
    cast = named_node("Cast", [frames], f"{PIXELS}.float", {"to": int(ir.DataType.FLOAT)})
    centre = add_constant(graph, f"{PIXELS}.centre", np.float32(128))
    shifted = named_node("Sub", [cast.outputs[0], centre], f"{PIXELS}.shifted")
    padded = _pad_channel(graph, shifted.outputs[0], -1, np.float32(127))
    moved = named_node("Transpose", [padded.outputs[0]], f"{PIXELS}.nchw", {"perm": [0, 3, 1, 2]})
    factor = add_constant(graph, f"{PIXELS}.factor", np.float32(_SCALE))
    scaled = named_node("Mul", [moved.outputs[0], factor], PIXELS)
    return [cast, shifted, padded, moved, scaled], scaled.outputs[0]


_NODES = {"raw": _raw_pixels, "paired": _paired_pixels, "centred": _centred_pixels}


def _widen_weights(graph: ir.Graph, layer: ir.Node, preprocessing: Preprocessing, grid: _Grid) -> None:
    weight = layer.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    mean = np.asarray(preprocessing.mean, np.float64)[:, None, None]
    std = np.asarray(preprocessing.std, np.float64)[:, None, None]
    scaled = weight.const_value.numpy().astype(np.float64) / std
    constant = (scaled * (grid.centre / 255 - mean)).sum(1, keepdims=True) / grid.one
    widened = np.concatenate([scaled, constant], 1).astype(np.float32)
    layer.replace_input_with(1, add_constant(graph, f"{weight.name}.{PIXELS}", widened))
    drop_unused(graph, weight)


def _pad_channel(graph: ir.Graph, value: ir.Value, axis: int, fill: npt.NDArray[np.uint8] | np.float32) -> ir.Node:
    """One more channel at the end of `axis`, filled with `fill`."""
    ends = np.zeros((2, 4), np.int64)
    ends[1, axis] = 1
    pads = add_constant(graph, f"{PIXELS}.pads", ends.ravel())
    return named_node("Pad", [value, pads, add_constant(graph, f"{PIXELS}.one", fill)], f"{PIXELS}.padded")


def _only_input(graph: ir.Graph) -> ir.Value:
    if len(graph.inputs) != 1:
        raise UsageError(f"--input uint8: expected a model with one input, found {len(graph.inputs)}")
    return graph.inputs[0]


def only_convolution(value: ir.Value) -> ir.Node:
    """The convolution that alone reads `value`. Raises `UsageError` if there is none, or one in groups."""
    uses = list(value.uses())
    layer = uses[0].node if len(uses) == 1 else None
    if layer is None or layer.op_type != "Conv" or layer.attributes.get_int("group", 1) != 1:
        readers = " and ".join(use.node.op_type for use in uses) or "nothing"
        if layer is not None and layer.op_type == "Conv":
            readers = "a convolution in groups"
        raise UsageError(
            f"--input uint8: the preprocessing goes into the first convolution, so one without groups must be all that "
            f"reads the input, found {readers}; leave --input uint8 out"
        )
    return layer


def _frames_input(graph: ir.Graph, old: ir.Value) -> ir.Value:
    """Replace the graph's input by uint8 NHWC frames of the same name."""
    assert old.shape is not None
    batch, channels, height, width = old.shape
    shape = ir.Shape([batch, height, width, channels])
    name = old.name
    old.name = f"{name}.normalised"
    frames = ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    graph.inputs[0] = frames
    return frames


def _float(values: tuple[float, ...]) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)
