"""The saturating shift: all 256 integers for tensors that are not centred, with zero points of zero.

Symmetric int8 leaves a tensor x >= 0 the integers 0 to 127. Stored as x' = x - 128 s with s = max / 255, it uses -128
to 127, and the quantizer's clamp at -128 is the ReLU. Nothing runs for it: with weights W,

    W x + b - c = W x' + (b + c_in sum(W)) - c        for an input's offset c_in and an output's c

so the bias of the layer in front takes -c, that of each reader c_in times the sum of its weights, and at a residual add
the main branch takes the difference. Where no bias is near, a subtraction stands in front of the quantizer.

Only zero padding sees the difference, for a real zero is -c in x'. So the border of a padded convolution is made right
by `pad` (a Pad with -c in front, quantized again on the same grid, which is exact) or by `constant` (the padding stays
zero, and a constant tensor takes back what that adds at the border), or is avoided (`unpadded`: only tensors that no
padded convolution reads are shifted).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from resnetrt.calibration.graph.offsets import CLAMPS, absorbs, paddings, passed_on
from resnetrt.calibration.graph.structure import is_constant
from resnetrt.calibration.observe.ranges import QuantParams
from resnetrt.calibration.quantize.placement import Params, Points
from resnetrt.errors import UsageError
from resnetrt.export.variants.nodes import add_constant, drop_unused, named_node
from resnetrt.export.variants.qdq import WEIGHTED, output_axis

Border = Literal["pad", "constant", "unpadded"]
BORDERS: tuple[Border, ...] = get_args(Border)
_WALKED = (*CLAMPS, "MaxPool", "Identity")  # between a quantizer and the layer whose bias takes its offset
_LEAST_GAIN = 0.75  # of the symmetric range; a narrower gain is under 2.5 dB of one tensor's noise, and changes a graph
_EQUAL = 1e-9  # relative: offsets are sums of a few float64 numbers


@dataclass(frozen=True)
class Shifted:
    """What `shift` did: the `offsets` of values by name, and the values made for borders with those they widen."""

    offsets: dict[str, float] = field(default_factory=dict)
    bordered: dict[str, str] = field(default_factory=dict)


def check_border(name: str) -> None:
    """Raise `UsageError` for an unknown form of the border."""
    if name not in BORDERS:
        raise UsageError.unknown("form of the shift", name, BORDERS)


def choose_shifted(
    graph: ir.Graph, points: Points, params: Params, affine: Callable[[str], QuantParams], border: Border
) -> tuple[Params, dict[str, float]]:
    """`params` with those of the values to shift, and the offset of each value that gets a pair, zero for most.

    `affine` gives a tensor's uint8 parameters. Values that share a range are shifted together, if all of their readers
    can take an offset and the range becomes clearly narrower. Inputs of the graph stay as they are.
    """
    values = {output.name: output for node in graph for output in node.outputs}
    barred = {source for name, source in points.items() if not _can_shift(values.get(name), border)}
    chosen, offsets = dict(params), dict.fromkeys(params, 0.0)
    for name, source in points.items():
        unsigned = affine(source)
        if source in barred or 255 * unsigned.scale > _LEAST_GAIN * 254 * params[name].scale:
            continue
        chosen[name] = QuantParams(unsigned.scale, 0, "int8")
        offsets[name] = unsigned.scale * (128 - unsigned.zero_point)
    return chosen, offsets


def _can_shift(value: ir.Value | None, border: Border) -> bool:
    if value is None or value.is_graph_output():
        return False
    for use in value.uses():
        if use.node.op_type not in WEIGHTED or not is_constant(use.node.inputs[1]):
            continue
        inner = _plane(value) is not None and not use.node.outputs[0].is_graph_output()
        fits = not paddings(use.node) or border == "pad" or (border == "constant" and inner)
        if not absorbs(use.node) or not fits:
            return False
    return True


def shift(graph: ir.Graph, targets: Mapping[str, float], border: Border) -> Shifted:
    """Give the named values these offsets, exactly but for float rounding; names are kept, and mean what they meant.

    Whatever can't read a value with an offset reads the real one.
    """
    if not any(targets.values()):
        return Shifted()
    plan = _Plan(graph, targets)
    return _Rewrite(graph, plan, border).run()


class _Plan:
    """The offsets of all values: as their nodes make them, and as others read them.

    They differ for a value whose offset no bias can take.
    """

    def __init__(self, graph: ir.Graph, targets: Mapping[str, float]) -> None:
        self.made: dict[str, float] = {}
        self.read: dict[str, float] = {}
        made_values = [output for node in graph for output in node.outputs]
        routes = {_name(value): _route(value, targets) for value in made_values if _name(value) in targets}
        claimed = {_name(value) for route in routes.values() for value in route}
        for node in graph:
            for index, value in enumerate(node.outputs):
                name = _name(value)
                self.made[name] = self.read[name] = 0.0 if index else self._natural(node)
                if name in targets:
                    self._give(value, targets[name], routes[name])
                elif node.op_type == "Add" and name not in claimed and (route := _route(value, targets)):
                    self._give(value, 0.0, route)

    def of_inputs(self, node: ir.Node) -> list[float]:
        """The offsets of what `node` reads."""
        return [0.0 if value is None else self.read.get(_name(value), 0.0) for value in node.inputs]

    def _natural(self, node: ir.Node) -> float:
        offsets = self.of_inputs(node)
        if absorbs(node) or not any(offsets):
            return 0.0
        return passed_on(node, offsets) or 0.0

    def _give(self, value: ir.Value, target: float, route: list[ir.Value]) -> None:
        missing = target - self.made[_name(value)]
        self.read[_name(value)] = target
        if abs(missing) <= _EQUAL * (abs(target) + abs(self.made[_name(value)])):
            self.made[_name(value)] = target
            return
        for above in route:
            self.made[_name(above)] += missing
            self.read[_name(above)] = self.made[_name(above)]


def _route(value: ir.Value, targets: Mapping[str, float], first: bool = True) -> list[ir.Value]:
    """Values from `value` up to the output of the layer whose bias can shift them all; none if there is none.

    Nothing but the next one reads the values above the first, and none of them has an offset of its own.
    """
    node = value.producer()
    private = first or (_name(value) not in targets and len(value.uses()) == 1 and not value.is_graph_output())
    if node is None or not private:
        return []
    if absorbs(node):
        return [value]
    candidates = node.inputs if node.op_type == "Add" else node.inputs[:1] if node.op_type in _WALKED else ()
    for above in candidates:
        if above is not None and not is_constant(above) and (rest := _route(above, targets, first=False)):
            return [value, *rest]
    return []


class _Rewrite:
    def __init__(self, graph: ir.Graph, plan: _Plan, border: Border) -> None:
        self._graph, self._plan, self._border = graph, plan, border
        self._restored: dict[str, ir.Value] = {}
        self._padded: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
        self._bordered: dict[str, str] = {}

    def run(self) -> Shifted:
        for node in list(self._graph):
            offsets, made = self._plan.of_inputs(node), self._plan.made[_name(node.outputs[0])]
            for value in node.outputs:
                self._subtract(value)
            if absorbs(node):
                self._shift_layer(node, offsets[0], made)
            elif any(offsets) and passed_on(node, offsets) is None:
                self._read_real_values(node, offsets)
            elif any(offsets):
                self._shift_constants(node, offsets[0])
        return Shifted({name: offset for name, offset in self._plan.read.items() if offset}, self._bordered)

    def _shift_layer(self, layer: ir.Node, into: float, out: float) -> None:
        if not into and not out:
            return
        weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
        weights = np.moveaxis(_array(weight), output_axis(layer, _array(weight).ndim), 0).astype(np.float64)
        sums = weights.reshape(len(weights), -1).sum(1)
        old = np.zeros(len(sums)) if bias is None else _array(bias).astype(np.float64)
        name = f"{layer.name}.bias" if bias is None else f"{layer.name}/{bias.name}"
        shifted = add_constant(self._graph, f"{name}.shifted", (old + into * sums - out).astype(np.float32))
        layer.resize_inputs(3)
        layer.replace_input_with(2, shifted)
        if bias is not None:
            drop_unused(self._graph, bias)
        if into and paddings(layer):
            if self._border == "constant":
                self._correct_border(layer, weights, into)
            else:
                self._pad_before(layer, into)

    def _pad_before(self, layer: ir.Node, offset: float) -> None:
        """Let `layer` read its input inside a border of real zeros, and add none of its own."""
        value, pads = layer.inputs[0], paddings(layer)
        assert value is not None
        key = (_name(value), pads)
        if key not in self._padded:
            name = f"{value.name}.bordered"
            while name in self._bordered:
                name += "_"
            half = len(pads) // 2
            amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
            fill = add_constant(self._graph, f"{name}.zero", np.float32(-offset))
            node = named_node("Pad", [value, add_constant(self._graph, f"{name}.pads", amounts), fill], name)
            node.outputs[0].type = value.type
            self._graph.insert_before(layer, node)
            self._padded[key] = node.outputs[0]
            self._bordered[name] = key[0]
        layer.replace_input_with(0, self._padded[key])
        layer.attributes.add(ir.AttrInt64s("pads", [0] * len(pads)))

    def _correct_border(self, layer: ir.Node, weights: npt.NDArray[np.float64], offset: float) -> None:
        """Add a constant `(1, outputs, H, W)`: the bias took the offset of zeros that the padding does not have."""
        value = layer.inputs[0]
        plane = None if value is None else _plane(value)
        assert plane is not None
        taps = weights.sum(1)
        outside = taps.sum((1, 2))[:, None, None] - np.einsum("okl,hk,wl->ohw", taps, *_inside(layer, plane, taps))
        constant = add_constant(self._graph, f"{layer.name}.border", (-offset * outside)[None].astype(np.float32))
        self._follow(layer.outputs[0], "Add", constant, "unbordered")

    def _shift_constants(self, node: ir.Node, offset: float) -> None:
        if node.op_type == "Relu":
            low = add_constant(self._graph, f"{node.outputs[0].name}.low", np.float32(-offset))
            self._replace(node, named_node("Clip", [*node.inputs[:1], low], node.name or ""))  # type: ignore[list-item]
        elif node.op_type == "Clip":
            for index, limit in enumerate(node.inputs[1:], 1):
                if limit is not None:
                    self._move_constant(node, index, _array(limit) - np.float32(offset))
        elif node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
            fill = node.inputs[2] if len(node.inputs) > 2 else None
            node.resize_inputs(max(len(node.inputs), 3))
            self._move_constant(node, 2, np.float32(0 if fill is None else _array(fill)) - np.float32(offset))

    def _move_constant(self, node: ir.Node, index: int, moved: npt.NDArray[np.float32] | np.float32) -> None:
        old = node.inputs[index]
        node.replace_input_with(index, add_constant(self._graph, f"{node.outputs[0].name}.shifted.{index}", moved))
        if old is not None:
            drop_unused(self._graph, old)

    def _replace(self, old: ir.Node, new: ir.Node) -> None:
        """Put `new` where `old` was, its output under the same name."""
        value, name = new.outputs[0], old.outputs[0].name
        value.type, value.shape = old.outputs[0].type, old.outputs[0].shape
        self._graph.insert_before(old, new)
        old.outputs[0].replace_all_uses_with(value)
        self._graph.remove(old, safe=True)
        value.name = name

    def _read_real_values(self, node: ir.Node, offsets: list[float]) -> None:
        for index, (value, offset) in enumerate(zip(node.inputs, offsets, strict=True)):
            if value is None or not offset:
                continue
            name = _name(value)
            if name not in self._restored:
                constant = add_constant(self._graph, f"{name}.restored.by", np.float32(offset))
                added = named_node("Add", [value, constant], f"{name}.restored")
                added.outputs[0].type, added.outputs[0].shape = value.type, value.shape
                self._graph.insert_before(node, added)
                self._restored[name] = added.outputs[0]
            node.replace_input_with(index, self._restored[name])

    def _subtract(self, value: ir.Value) -> None:
        """Take off `value` what no bias could take."""
        name = _name(value)
        if rest := self._plan.read.get(name, 0.0) - self._plan.made.get(name, 0.0):
            constant = add_constant(self._graph, f"{name}.shifted.by", np.float32(rest))
            self._follow(value, "Sub", constant, "unshifted")

    def _follow(self, value: ir.Value, operator: str, constant: ir.Value, suffix: str) -> None:
        """Put `operator` behind `value`; its result takes over name and readers."""
        name, producer, uses = _name(value), value.producer(), list(value.uses())
        assert producer is not None
        value.name = f"{name}.{suffix}"
        node = named_node(operator, [value, constant], f"{name}.{operator.lower()}")
        node.outputs[0].name = name
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        self._graph.insert_after(producer, node)
        for use in uses:
            use.node.replace_input_with(use.idx, node.outputs[0])


def _plane(value: ir.Value) -> tuple[int, int] | None:
    """Height and width of `value` `(N, C, H, W)` if they are known."""
    if value.shape is None or len(value.shape) != 4:
        return None
    height, width = value.shape[2], value.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _inside(layer: ir.Node, plane: tuple[int, int], taps: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """For each axis whether an output's tap `(outputs of the axis, kernel)` lies inside the image."""
    pads, strides = paddings(layer), layer.attributes.get_ints("strides", (1, 1))
    dilations = layer.attributes.get_ints("dilations", (1, 1))
    masks = []
    for axis, size in enumerate(plane):
        reach = np.arange(taps.shape[1 + axis]) * dilations[axis]
        count = (size + pads[axis] + pads[axis + 2] - reach[-1] - 1) // strides[axis] + 1
        at = np.arange(count)[:, None] * strides[axis] - pads[axis] + reach
        masks.append(((at >= 0) & (at < size)).astype(np.float64))
    return masks


def _array(value: ir.Value | None) -> npt.NDArray[np.float32]:
    assert value is not None
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
