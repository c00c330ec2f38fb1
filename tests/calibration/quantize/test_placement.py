"""Where each dialect puts its Q/DQ pairs, decided on the graph and seen again in the quantized file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import DIALECTS, Dialect, dialect
from resnetrt.calibration.graph.structure import residual_adds, watched_values, weighted_layers
from resnetrt.calibration.quantize.placement import place
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model
from resnetrt.calibration_record import FILE, CalibrationRecord
from resnetrt.errors import UsageError

KINDS = ["projection", "pad", "bottleneck", "plain", "fashion"]


@pytest.fixture
def floating(small_onnx: Callable[[str], Path], request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """FP32 files: the small networks, and the embedded one."""

    def find(kind: str) -> Path:
        return request.getfixturevalue("exported_fashion") / "fp32.onnx" if kind == "fashion" else small_onnx(kind)

    return find


@pytest.fixture
def quantized(request: pytest.FixtureRequest) -> Callable[[str, str], ir.Graph]:
    """The quantized graph of a network under a dialect."""

    def quantize(kind: str, rules: str) -> ir.Graph:
        if kind == "fashion":
            bundle = Bundle.open(request.getfixturevalue("exported_fashion"))
            path = bundle.variant_file("fp32")
            record = CalibrationRecord.read(bundle.file(FILE))
        else:
            calibrated = request.getfixturevalue("calibrated")(kind)
            path, record = calibrated.path, calibrated.record
        blob = quantize_model(path, record, dialect(rules), QuantizeOptions())
        return ir.from_proto(ir.serde.onnx.ModelProto.FromString(blob)).graph

    return quantize


def is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def scale_of(value: ir.Value | None) -> float:
    assert is_dequantized(value)
    assert value is not None
    return float(constant(value.producer().inputs[1]))  # type: ignore[union-attr]


def source_of(value: ir.Value) -> ir.Value:
    """The float value behind a Q/DQ pair."""
    quantize = value.producer().inputs[0].producer()  # type: ignore[union-attr]
    assert quantize is not None
    assert quantize.op_type == "QuantizeLinear"
    assert quantize.inputs[0] is not None
    return quantize.inputs[0]


def adds(graph: ir.Graph) -> list[tuple[ir.Value, ir.Value, ir.Node]]:
    """(main, shortcut, add) of each residual add."""
    return [(add.main, add.shortcut, add.node) for add in residual_adds(graph)]


def test_tensorrt_points_of_a_padded_network(small_onnx: Callable[[str], Path]):
    assert place(ir.load(str(small_onnx("pad"))).graph, DIALECTS["tensorrt"]) == {
        "input": "input",
        "relu": "relu",
        "stages.0.0.relu_1": "stages.0.0.relu_1",
        "stages.0.0.relu_2": "stages.0.0.relu_2",
        "stages.0.1.relu_3": "stages.0.1.relu_3",
        "stages.0.1.relu_4": "stages.0.1.relu_4",
        "stages.1.0.relu_5": "stages.1.0.relu_5",
        "stages.1.0.shortcut.pad": "stages.0.1.relu_4",  # the block's output, only moved
        "view": "view",
    }


@pytest.mark.parametrize("rules", DIALECTS.values(), ids=DIALECTS)
def test_points_that_a_dialect_adds_to_those_of_tensorrt(small_onnx: Callable[[str], Path], rules: Dialect):
    least = place(ir.load(str(small_onnx("pad"))).graph, DIALECTS["tensorrt"])
    points = place(ir.load(str(small_onnx("pad"))).graph, rules)
    main = {f"stages.{block}.conv2.conv": f"stages.{block}.conv2.conv" for block in ("0.0", "0.1", "1.0")}
    moved = {f"stages.1.0.shortcut.slice_{number}": "stages.0.1.relu_4" for number in (1, 2)} | {"mean": "view"}
    assert points == least | (main if rules.every_output else {}) | (moved if rules.both_sides else {})


def test_pool_of_the_stem(small_onnx: Callable[[str], Path]):
    """Its output feeds convolutions; in front of it the same range, so that it runs on integers on the CPU."""
    graph = ir.load(str(small_onnx("bottleneck"))).graph
    assert place(graph, DIALECTS["tensorrt"])["pool.max_pool2d"] == "pool.max_pool2d"
    assert "relu" not in place(graph, DIALECTS["tensorrt"])
    assert place(graph, DIALECTS["cpu"])["relu"] == place(graph, DIALECTS["cpu"])["pool.max_pool2d"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_points_come_in_graph_order_and_their_ranges_are_recorded(
    floating: Callable[[str], Path], kind: str, rules: str
):
    graph = ir.load(str(floating(kind))).graph
    points = place(graph, DIALECTS[rules])
    order = [value.name for value in graph.inputs] + [output.name for node in graph for output in node.outputs]
    assert list(points) == sorted(points, key=order.index)
    assert set(points.values()) <= {value.name for value in watched_values(graph)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_every_layer_computes_on_integers(quantized: Callable[[str, str], ir.Graph], kind: str, rules: str):
    graph = quantized(kind, rules)
    layers = [node for node in graph if node.op_type in ("Conv", "Gemm")]
    assert layers
    assert weighted_layers(graph) == []  # none has float weights left
    for layer in layers:
        assert is_dequantized(layer.inputs[0]), layer.name
        weight = layer.inputs[1].producer()  # type: ignore[union-attr]
        assert weight is not None
        assert weight.op_type == "DequantizeLinear"
        assert constant(weight.inputs[0]).dtype == np.int8
        outputs = constant(weight.inputs[0]).shape[0]
        assert weight.attributes["axis"].as_int() == 0
        assert constant(weight.inputs[1]).shape == (outputs,)
        assert not constant(weight.inputs[2]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_shortcuts_always_and_every_outputes_only_where_the_dialect_says(
    quantized: Callable[[str, str], ir.Graph], kind: str, rules: str
):
    pairs = adds(quantized(kind, rules))
    assert len(pairs) == {"plain": 0, "fashion": 9}.get(kind, 3)
    for main, shortcut, node in pairs:
        assert is_dequantized(shortcut), node.name
        assert is_dequantized(main) == DIALECTS[rules].every_output, node.name
        float_main = source_of(main) if is_dequantized(main) else main
        assert float_main.producer().op_type == "Conv"  # type: ignore[union-attr]


def test_tensorrt_never_quantizes_a_every_output():
    assert not DIALECTS["tensorrt"].every_output


@pytest.mark.parametrize("kind", ["projection", "pad", "bottleneck", "fashion"])
@pytest.mark.parametrize("rules", DIALECTS)
def test_a_blocks_output_has_one_scale(quantized: Callable[[str, str], ir.Graph], kind: str, rules: str):
    """The next block's first convolution and its shortcut read the same integers, moved or not."""
    graph = quantized(kind, rules)
    identity, moved, projected = 0, 0, 0
    for main, shortcut, _ in adds(graph):
        source = source_of(shortcut)
        producer = source.producer()
        above = main.producer() if not is_dequantized(main) else source_of(main).producer()
        while above is not None and not (above.op_type == "Conv" and "conv1" in str(above.name)):
            above = above.inputs[0].producer()  # type: ignore[union-attr]
        assert above is not None
        block_input = above.inputs[0]
        if producer is not None and producer.op_type == "Conv":
            assert producer.inputs[0] is block_input
            projected += 1
        elif producer is not None and producer.op_type == "Pad":
            assert scale_of(shortcut) == scale_of(block_input)
            moved += 1
        else:
            assert shortcut is block_input
            identity += 1
    assert (identity > 0, moved > 0, projected > 0) == (True, kind == "pad", kind != "pad")


@pytest.mark.parametrize("kind", ["pad", "bottleneck"])
def test_cpu_pairs_on_both_sides_of_moves_have_one_scale(quantized: Callable[[str, str], ir.Graph], kind: str):
    moves = [node for node in quantized(kind, "cpu") if node.op_type in ("MaxPool", "Slice", "Pad", "Reshape")]
    assert moves
    for node in moves:
        (use,) = node.outputs[0].uses()
        behind = use.node
        assert behind.op_type == "QuantizeLinear"
        assert scale_of(node.inputs[0]) == float(constant(behind.inputs[1]))
        before = node.inputs[0].producer()  # type: ignore[union-attr]
        assert before is not None
        assert constant(before.inputs[2]) == constant(behind.inputs[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_integers_of_activations(quantized: Callable[[str, str], ir.Graph], kind: str, rules: str):
    for node in quantized(kind, rules):
        if node.op_type == "QuantizeLinear":
            zero = constant(node.inputs[2])
            assert zero.dtype == (np.int8 if DIALECTS[rules].symmetric else np.uint8)
            assert not (DIALECTS[rules].symmetric and zero.any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_biases_are_float_or_have_the_scale_of_the_sum(
    quantized: Callable[[str, str], ir.Graph], kind: str, rules: str
):
    for node in quantized(kind, rules):
        if node.op_type not in ("Conv", "Gemm"):
            continue
        if not DIALECTS[rules].integer_bias:
            assert constant(node.inputs[2]).dtype == np.float32
            continue
        bias = node.inputs[2].producer()  # type: ignore[union-attr]
        weight = node.inputs[1].producer()  # type: ignore[union-attr]
        assert bias is not None
        assert weight is not None
        assert bias.op_type == "DequantizeLinear"
        assert constant(bias.inputs[0]).dtype == np.int32
        expected = constant(weight.inputs[1]) * np.float32(scale_of(node.inputs[0]))
        np.testing.assert_array_equal(constant(bias.inputs[1]), expected)
        assert not constant(bias.inputs[2]).any()


def test_tensorrt_is_symmetric_with_float_biases():
    assert DIALECTS["tensorrt"].symmetric
    assert not DIALECTS["tensorrt"].integer_bias


def test_cpu_uses_zero_point_zero_behind_a_relu(quantized: Callable[[str, str], ir.Graph]):
    seen = {True: 0, False: 0}
    for node in quantized("projection", "cpu"):
        if node.op_type == "QuantizeLinear":
            producer = node.inputs[0].producer()  # type: ignore[union-attr]
            positive = producer is not None and producer.op_type in ("Relu", "ReduceMean", "Reshape")
            assert bool(constant(node.inputs[2])) is not positive
            seen[positive] += 1
    assert min(seen.values()) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rules", DIALECTS)
def test_no_pair_is_without_use_and_no_float_weight_is_left(
    quantized: Callable[[str, str], ir.Graph], kind: str, rules: str
):
    graph = quantized(kind, rules)
    for node in graph:
        assert all(output.uses() or output in graph.outputs for output in node.outputs), node.name
    for name, value in graph.initializers.items():
        assert value.uses(), name
        if "weight" in name and value.const_value is not None and value.const_value.numpy().ndim > 1:
            assert value.const_value.numpy().dtype == np.int8


def test_unknown_dialect():
    with pytest.raises(UsageError, match="unknown dialect 'tensort'; did you mean tensorrt"):
        dialect("tensort")


def test_dialects_are_named_as_they_are_registered():
    assert {name: rules.name for name, rules in DIALECTS.items()} == {name: name for name in DIALECTS}
    assert set(DIALECTS) >= {"tensorrt", "cpu"}
