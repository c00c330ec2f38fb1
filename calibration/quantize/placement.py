"""Where Q/DQ pairs go: one decision per value, taken from the graph's structure and the dialect."""

import onnx_ir as ir

from resnetrt.calibration.graph.dialects import Dialect
from resnetrt.calibration.graph.structure import (
    commutes,
    computed_from_extremum,
    convolution_outputs,
    counts_padding,
    is_constant,
    pad_amounts,
    residual_adds,
    scale_source,
    weighted_layers,
)
from resnetrt.calibration.observe.ranges import QuantParams

Points = dict[str, str]
Params = dict[str, QuantParams]


def place(graph: ir.Graph, dialect: Dialect, keep_float: frozenset[str] = frozenset()) -> Points:
    """Map each value to quantize to the value whose statistics give its range, in graph order.

    Values joined by operators that only move data (pools, slices, zero padding, reshapes) share one range: that of the
    topmost if it is itself quantized for a layer, else that of the value a layer consumes. Layers and adds named in
    `keep_float` need no pairs, nor do layers that read values that the dialect leaves float.
    """
    consumed = _consumed(graph, dialect, keep_float)
    points: Points = {}
    for value in consumed.values():
        source = scale_source(value)
        chosen = source if source.name in consumed else value
        points.setdefault(_name(value), _name(chosen))
        if dialect.both_sides and source is not value:
            _mark_chain(value, points, keep_float)
    order = {name: index for index, name in enumerate(map(_name, _values(graph)))}
    return dict(sorted(points.items(), key=lambda item: order[item[0]]))


def without_misread_integers(graph: ir.Graph, params: Params) -> tuple[Params, frozenset[str]]:
    """`params` without integers that are misread where their zero point is not 0, and nodes that must read floats.

    For such values, a Pad of channels gets no pair behind it. An average over padding reads floats, and so does a
    grouped convolution with other than multiples of four channels a group. A value that only they read gets no pair.
    """
    shifted = {name for name, chosen in params.items() if chosen.zero_point != 0}
    padded = {node.outputs[0].name for node in graph if node.op_type == "Pad" and _pads_channels(node)}
    pools = [node for node in graph if node.op_type == "AveragePool" and counts_padding(node)]
    misreading = pools + [layer for layer in weighted_layers(graph) if _has_odd_groups(layer)]
    floats = frozenset(node.name or "" for node in misreading if (value := node.inputs[0]) and value.name in shifted)
    values = {name: value for value in _values(graph) if (name := _name(value)) in shifted}
    unread = {name for name, value in values.items() if not _readers(value, floats)}
    return {name: chosen for name, chosen in params.items() if name not in padded & shifted | unread}, floats


def _pads_channels(node: ir.Node) -> bool:
    amounts = pad_amounts(node)
    return amounts is not None and bool(amounts[:, 1].any())


def _has_odd_groups(layer: ir.Node) -> bool:
    """Measured with OpenVINO 2026.4, a constant for each channel behind the activation: 0.1 to 0.6 of the tensor off.

    Right are multiples of four channels a group, in and out, and one of each (depthwise).
    """
    groups, weight = layer.attributes.get_int("group", 1), layer.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    outputs, inputs = weight.const_value.numpy().shape[:2]
    a_group = (outputs // groups, inputs)
    return groups > 1 and a_group != (1, 1) and any(count % 4 for count in a_group)


def _consumed(graph: ir.Graph, dialect: Dialect, keep_float: frozenset[str]) -> dict[str, ir.Value]:
    """Inputs of weighted layers, shortcuts of residual adds; what the dialect wants of main branches and outputs."""
    values = [layer.inputs[0] for layer in weighted_layers(graph) if layer.name not in keep_float]
    for add in residual_adds(graph):
        if add.node.name in keep_float:
            continue
        values.append(add.shortcut)
        if dialect.every_output:
            values.append(add.main)
    if dialect.every_output:
        values += [value for value in convolution_outputs(graph, keep_float) if _readers(value, keep_float)]
    if not dialect.extrema:
        values = [value for value in values if not computed_from_extremum(value)]
    return {_name(value): value for value in values if value is not None and not is_constant(value)}


def _mark_chain(value: ir.Value, points: Points, keep_float: frozenset[str]) -> None:
    """Give every value above `value` through commuting operators the same range, so that they run on integers.

    The range of a part would clip what others read of the whole value. So if others read the whole value too, a slice
    of it stays float, unless the whole value has its own range.
    """
    chosen = points[_name(value)]
    own = chosen == _name(scale_source(value))
    producer = value.producer()
    while producer is not None and commutes(producer):
        above = producer.inputs[0]
        assert above is not None
        if producer.op_type == "Slice" and not own and _readers(above, keep_float) > 1:
            return
        points.setdefault(_name(above), chosen)
        producer = above.producer()


def _readers(value: ir.Value, keep_float: frozenset[str]) -> int:
    """The number of nodes that would read the integers of `value`."""
    return sum(use.node.name not in keep_float for use in value.uses())


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(output for node in graph for output in node.outputs)]


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
