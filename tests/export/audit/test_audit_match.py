"""Products inside a layer that is named after the last of its nodes: claimed only where provenance proves it."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from resnetrt.export.audit.layers import ExecutedLayer
from resnetrt.export.audit.match import match_layers
from resnetrt.export.audit.source import SourceGraph

# attention over `x` behind a Linear layer; its scores also go to `seen`
GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 4, 4] x) => (float[N, 4, 4] y, float[N, 4, 4] seen) <float[4, 4] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}>
{ linear = MatMul(x, w) scores = MatMul(linear, x) soft = Softmax(scores) mixed = MatMul(soft, x) y = Relu(mixed) seen = Relu(scores) }
"""  # noqa: E501
LINEAR = ExecutedLayer("linear", "FullyConnected", "int8", source=("linear",), multiplies=True)
SCALE = ExecutedLayer("Multiply_7", "Eltwise", "fp32", source=("Multiply_7",), inputs=("linear",))
ATTENTION = ExecutedLayer(
    "y", "Subgraph", "fp32", source=("y",), inputs=("Multiply_7",), multiplies=None, composite=True
)


@pytest.fixture
def source(tmp_path: Path) -> SourceGraph:
    model = onnx.parser.parse_model(GRAPH)
    del model.graph.node[-1], model.graph.output[-1]
    onnx.save(model, tmp_path / "net.onnx")
    return SourceGraph.of(tmp_path / "net.onnx")


def runs_in(source: SourceGraph, *layers: ExecutedLayer) -> dict[str, str]:
    return {node: layer.name for node, layer in match_layers(source, layers).items()}


def test_all_products_behind_the_last_known_layer_are_in_the_composite_one(source: SourceGraph):
    assert runs_in(source, LINEAR, SCALE, ATTENTION) == {"linear": "linear", "scores": "y", "mixed": "y"}


@pytest.mark.parametrize(
    "layers",
    [
        (LINEAR, SCALE, replace(ATTENTION, composite=False)),
        # what stands between may have run a product
        (LINEAR, replace(SCALE, multiplies=True), ATTENTION),
        (LINEAR, replace(SCALE, multiplies=None), ATTENTION),
        (LINEAR, replace(SCALE, multiplies=None, composite=True), ATTENTION),
        (LINEAR, replace(SCALE, name="a"), ExecutedLayer("b", "LSTM", "fp32", inputs=("a",), multiplies=None),
         replace(ATTENTION, inputs=("a", "b"))),
        # nothing that is known stands behind them
        (LINEAR, SCALE, replace(ATTENTION, source=("Subgraph_9",))),
        # a layer that only changes types
        (LINEAR, SCALE, replace(ATTENTION, kind="quantize")),
        (LINEAR, SCALE),
    ],
)  # fmt: skip
def test_what_may_run_elsewhere_stays_unknown(layers: tuple[ExecutedLayer, ...], source: SourceGraph):
    assert runs_in(source, *layers) == {"linear": "linear"}


def test_a_product_whose_result_also_goes_elsewhere_stays_unknown(tmp_path: Path):
    onnx.save(onnx.parser.parse_model(GRAPH), tmp_path / "net.onnx")
    both = SourceGraph.of(tmp_path / "net.onnx")
    relu = ExecutedLayer("seen", "Eltwise", "fp32", source=("seen",))
    assert runs_in(both, LINEAR, SCALE, ATTENTION, relu) == {"linear": "linear", "mixed": "y"}
    assert runs_in(both, LINEAR, SCALE, ATTENTION) == {"linear": "linear", "mixed": "y"}


def test_a_composite_layer_between_owns_what_it_is_named_after(source: SourceGraph):
    first = replace(ATTENTION, name="first", source=("scores",), precision="bf16")
    owners = runs_in(source, LINEAR, SCALE, first, replace(ATTENTION, inputs=("first",)))
    assert owners == {"linear": "linear", "scores": "first", "mixed": "y"}
