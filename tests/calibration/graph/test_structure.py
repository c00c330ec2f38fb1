"""The shortcut of an add is found by structure, whatever the order of its operands."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from resnetrt.calibration.graph.structure import commutes, is_constant, residual_adds, scale_source, weighted_layers

SmallOnnx = Callable[[str], Path]
Step = tuple[str, Sequence[str], str]


def graph_of(*steps: Step) -> ir.Graph:
    """Nodes `(operator, inputs, output)`; inputs named w... are constants, `x` is the graph's input."""
    values = {"x": ir.Value(name="x")}
    constants, nodes = {}, []
    for operator, names, output in steps:
        for name in names:
            if name and name not in values:
                tensor = ir.tensor(np.ones((4, 4, 1, 1), np.float32), name=name)
                values[name] = constants[name] = ir.Value(name=name, const_value=tensor)
        node = ir.node(operator, [values[name] if name else None for name in names], name=output)
        node.outputs[0].name = output
        values[output] = node.outputs[0]
        nodes.append(node)
    graph = ir.Graph([values["x"]], [values[steps[-1][2]]], nodes=nodes, initializers=list(constants.values()))
    graph.opset_imports[""] = 20
    return graph


def value(graph: ir.Graph, name: str) -> ir.Value:
    return next(output for node in graph for output in node.outputs if output.name == name)


def shortcuts(graph: ir.Graph) -> dict[str, tuple[str, str]]:
    """Add to (main, shortcut)."""
    return {str(add.node.name): (str(add.main.name), str(add.shortcut.name)) for add in residual_adds(graph)}


EXPECTED = {
    "projection": {
        "stages.0.0": ("stages.0.0.conv2.conv", "relu"),
        "stages.0.1": ("stages.0.1.conv2.conv", "stages.0.0.relu_2"),
        "stages.1.0": ("stages.1.0.conv2.conv", "stages.1.0.shortcut.conv"),
    },
    "pad": {
        "stages.0.0": ("stages.0.0.conv2.conv", "relu"),
        "stages.0.1": ("stages.0.1.conv2.conv", "stages.0.0.relu_2"),
        "stages.1.0": ("stages.1.0.conv2.conv", "stages.1.0.shortcut.pad"),
    },
    "bottleneck": {
        "stages.0.0": ("stages.0.0.conv3.conv", "stages.0.0.shortcut.conv"),
        "stages.0.1": ("stages.0.1.conv3.conv", "stages.0.0.relu_3"),
        "stages.1.0": ("stages.1.0.conv3.conv", "stages.1.0.shortcut.conv"),
    },
    "plain": {},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_shortcuts_of_real_networks(small_onnx: SmallOnnx, kind: str):
    pairs = shortcuts(ir.load(str(small_onnx(kind))).graph)
    assert {name.rpartition(".")[0]: pair for name, pair in pairs.items()} == EXPECTED[kind]


@pytest.mark.parametrize("kind", ["projection", "pad", "bottleneck"])
@pytest.mark.parametrize("swapped", [(0,), (1,), (2,), (0, 1, 2)])
def test_the_order_of_the_operands_does_not_matter(small_onnx: SmallOnnx, kind: str, swapped: tuple[int, ...]):
    graph = ir.load(str(small_onnx(kind))).graph
    before = shortcuts(graph)
    adds = residual_adds(graph)
    indices = [add.shortcut_index for add in adds]
    for position in swapped:
        node = adds[position].node
        first, second = node.inputs
        node.replace_input_with(0, second)
        node.replace_input_with(1, first)
        indices[position] = 1 - indices[position]
    assert shortcuts(graph) == before
    assert [add.shortcut_index for add in residual_adds(graph)] == indices
    for add in residual_adds(graph):
        assert add.node.inputs[add.shortcut_index] is add.shortcut


@pytest.mark.parametrize("operands", [("c", "x"), ("x", "c")])
def test_the_fork_may_be_the_networks_input(operands: tuple[str, str]):
    assert shortcuts(graph_of(("Conv", ["x", "w"], "c"), ("Add", operands, "a"))) == {"a": ("c", "x")}


@pytest.mark.parametrize("operands", [("m", "s"), ("s", "m")])
def test_the_branch_with_fewer_weighted_layers_is_the_shortcut(operands: tuple[str, str]):
    graph = graph_of(
        ("Relu", ["x"], "r"),
        ("Conv", ["r", "w1"], "m1"),
        ("Sigmoid", ["m1"], "gate"),
        ("Mul", ["m1", "gate"], "swish"),
        ("Conv", ["swish", "w2"], "m"),
        ("AveragePool", ["r"], "down"),
        ("Conv", ["down", "w3"], "s"),
        ("Add", operands, "a"),
    )
    assert shortcuts(graph) == {"a": ("m", "s")}


def test_pre_activation_blocks():
    graph = graph_of(
        ("Conv", ["x", "w1"], "stem"),
        ("Relu", ["stem"], "r1"),
        ("Conv", ["r1", "w2"], "c1"),
        ("Add", ["c1", "stem"], "a1"),
        ("Relu", ["a1"], "r2"),
        ("Conv", ["r2", "w3"], "c2"),
        ("Add", ["a1", "c2"], "a2"),
    )
    assert shortcuts(graph) == {"a1": ("c1", "stem"), "a2": ("c2", "a1")}


def test_adding_a_constant_is_no_residual():
    graph = graph_of(("Conv", ["x", "w"], "c"), ("Add", ["c", "wb"], "a"), ("Add", ["wc", "a"], "b"))
    assert residual_adds(graph) == []


def test_weighted_layers_in_order_and_only_with_constant_weights(small_onnx: SmallOnnx):
    graph = ir.load(str(small_onnx("bottleneck"))).graph
    names = [str(layer.name) for layer in weighted_layers(graph)]
    assert names[0] == "stem.conv"
    assert names[-1] == "fc"
    assert len(names) == 1 + 3 * 3 + 2 + 1
    computed = graph_of(("Relu", ["x"], "r"), ("Conv", ["x", "r"], "c"), ("Conv", ["c", "w"], "d"))
    assert [layer.name for layer in weighted_layers(computed)] == ["d"]


def test_scale_source_climbs_over_what_only_moves_data():
    graph = graph_of(
        ("Relu", ["x"], "r"),
        ("MaxPool", ["r"], "p"),
        ("Slice", ["p", "w1", "w2"], "s"),
        ("Transpose", ["s"], "t"),
        ("Flatten", ["t"], "f"),
    )
    for name in ("p", "s", "t", "f", "r"):
        assert scale_source(value(graph, name)).name == "r"
    assert scale_source(graph.inputs[0]).name == "x"


@pytest.mark.parametrize("operator", ["Relu", "AveragePool", "GlobalAveragePool", "Concat", "Mul"])
def test_operators_that_change_values_are_not_climbed(operator: str):
    graph = graph_of(("Conv", ["x", "w"], "c"), (operator, ["c"], "o"), ("Flatten", ["o"], "f"))
    assert scale_source(value(graph, "f")).name == "o"


def test_padding_commutes_only_with_zeros():
    def pad(*inputs: str) -> ir.Node:
        return graph_of(("Pad", ["x", *inputs], "p"))[0]

    assert commutes(pad("wpads"))
    assert commutes(pad("wpads", ""))
    assert not commutes(pad("wpads", "wones"))
    computed = graph_of(("Relu", ["x"], "fill"), ("Pad", ["x", "wpads", "fill"], "p"))
    assert not commutes(computed[1])
    zeros = pad("wpads", "wfill")
    assert zeros.inputs[2] is not None
    zeros.inputs[2].const_value = ir.tensor(np.zeros((), np.float32), name="wfill")
    assert commutes(zeros)


def test_is_constant():
    graph = graph_of(("Conv", ["x", "w"], "c"))
    assert is_constant(graph[0].inputs[1])
    assert is_constant(None)
    assert not is_constant(graph.inputs[0])
    assert not is_constant(graph[0].outputs[0])
