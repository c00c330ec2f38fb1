"""Check a Q/DQ file that any tool wrote against a dialect's rules: zero points, axis, types, bias, placement."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from resnetrt.calibration.graph.dialects import Dialect
from resnetrt.calibration.graph.qdq_graph import QdqGraph
from resnetrt.calibration.graph.structure import residual_adds
from resnetrt.errors import CheckFailed
from resnetrt.export.variants.qdq import WEIGHTED, output_axis, scale_axis

_SAME_SCALE = 1e-3  # relative; float32 products differ by 1e-7, wrong pairings by far more


@dataclass(frozen=True)
class QdqFinding:
    """`severity` is `error` (the target computes something else or refuses) or `warning` (slower or less exact)."""

    severity: str
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message}"

    def to_json(self) -> dict[str, str]:
        """The fields under their names."""
        return asdict(self)


@dataclass(frozen=True)
class _File:
    graph: QdqGraph
    structure: ir.Graph
    rules: Dialect

    def node(self, proto: onnx.NodeProto) -> ir.Node:
        """The same node in `structure`. Read alone, without its graph, each node would be warned about as invalid."""
        return self._makers[proto.output[0]]

    @cached_property
    def _makers(self) -> dict[str | None, ir.Node]:
        return {value.name: node for node in self.structure for value in node.outputs}


Rule = Callable[[_File], Iterator[QdqFinding]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Register a rule."""
    RULES.append(function)
    return function


def lint_qdq(path: Path, rules: Dialect) -> list[QdqFinding]:
    """Every finding, errors first. Raises `CheckFailed` for a file that is not Q/DQ."""
    model = onnx.load(path)
    operators = {node.op_type for node in model.graph.node}
    integer = sorted(name for name in operators if name.startswith("QLinear") or name.endswith("Integer"))
    if integer or "DequantizeLinear" not in operators:
        content = f"the integer operators {', '.join(integer)}" if integer else "a float model"
        expected = f"{path.name}: expected QuantizeLinear/DequantizeLinear pairs"
        raise CheckFailed(f"{expected}, found {content}; export it as Q/DQ")
    file = _File(QdqGraph(model), ir.serde.deserialize_model(model).graph, rules)
    findings = [finding for function in RULES for finding in function(file)]
    return sorted(findings, key=lambda finding: finding.severity)


@rule
def activations(file: _File) -> Iterator[QdqFinding]:
    """Types, zero points and scales of activation quantizers."""
    for node in file.graph.nodes:
        if node.op_type != "QuantizeLinear" or file.graph.dequantized_constant(node.input[0]) is not None:
            continue
        quantizer, name = file.graph.quantizer(node), node.input[0]
        if quantizer is None:
            yield QdqFinding(
                "error", node.name, f"{name} needs one constant scale per tensor, not computed or per channel"
            )
            continue
        if not (np.isfinite(quantizer.scale) and quantizer.scale >= np.finfo(np.float32).tiny):
            yield QdqFinding("error", node.name, f"the scale of {name} is {quantizer.scale}, not a positive float32")
        if file.rules.symmetric and (quantizer.dtype != "int8" or quantizer.zero_point != 0):
            message = f"{name} is {quantizer.dtype} with zero point {quantizer.zero_point}"
            advice = f"{file.rules.name} takes int8 with 0: quantize symmetrically"
            yield QdqFinding("error", node.name, f"{message}; {advice}")
        elif quantizer.dtype not in ("int8", "uint8"):
            yield QdqFinding("error", node.name, f"{name} is {quantizer.dtype}, not an 8-bit integer")
        elif not file.rules.symmetric and quantizer.dtype == "int8":
            yield QdqFinding("warning", node.name, f"{name} is int8, which CPUs run no faster than floats; use uint8")


@rule
def weights(file: _File) -> Iterator[QdqFinding]:
    """Integer weights: type, zero points, one scale per output channel along the right axis."""
    for layer in file.graph.layers(WEIGHTED):
        node = file.graph.producers.get(layer.input[1])
        if node is None or node.op_type != "DequantizeLinear":
            yield QdqFinding("warning", layer.name, "its weights are floats, so it runs as a float layer")
            continue
        stored, scale = file.graph.dequantized_constant(node.input[0]), file.graph.constant(node.input[1])
        zero = file.graph.constant(node.input[2]) if len(node.input) > 2 else None
        if stored is None or scale is None:
            yield QdqFinding("error", layer.name, "its weights or their scales are computed, not constant")
            continue
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield QdqFinding("error", layer.name, "a scale of its weights is not a positive number")
        kind = "int8" if stored.dtype == np.float32 and zero is None else (stored if zero is None else zero).dtype.name
        if kind != "int8" or (zero is not None and zero.any()):
            severity = "error" if file.rules.symmetric else "warning"
            yield QdqFinding(severity, layer.name, f"its weights are {kind}, expected int8 with zero points 0")
        yield from _weight_axis(file.node(layer), file.node(node), stored.shape, scale.size)


def _weight_axis(layer: ir.Node, node: ir.Node, shape: tuple[int, ...], scales: int) -> Iterator[QdqFinding]:
    wanted, name = output_axis(layer, len(shape)), layer.name or ""
    if scales == 1 and shape[wanted] > 1:
        yield QdqFinding("warning", name, "one scale for all of its weights; a scale per output channel is more exact")
        return
    axis = scale_axis(node) % len(shape)
    if scales > 1 and (axis != wanted or scales != shape[wanted]):
        message = (
            f"its weights {shape} have {scales} scales along axis {axis}, expected {shape[wanted]} along axis {wanted}"
        )
        yield QdqFinding("error", name, message)


@rule
def biases(file: _File) -> Iterator[QdqFinding]:
    """Integer biases: not for symmetric targets; elsewhere their scale is that of the sums, input x weight."""
    for layer in file.graph.layers(("Conv", "Gemm")):
        node = file.graph.producers.get(layer.input[2]) if len(layer.input) > 2 else None
        if node is None or node.op_type != "DequantizeLinear":
            continue
        if file.rules.symmetric:
            yield QdqFinding("error", layer.name, f"its bias is quantized; {file.rules.name} takes float biases")
            continue
        weight = file.graph.producers.get(layer.input[1])
        source = next(file.graph.quantizers_of(layer), None)
        scale = file.graph.constant(node.input[1])
        if weight is None or weight.op_type != "DequantizeLinear" or source is None or scale is None:
            continue
        expected = source.scale * np.asarray(file.graph.constant(weight.input[1]), np.float64)
        if not np.allclose(scale, expected, rtol=_SAME_SCALE, atol=0):
            yield QdqFinding(
                "error", layer.name, "the scale of its bias is not that of its input times that of its weights"
            )


@rule
def inputs(file: _File) -> Iterator[QdqFinding]:
    """Layers that read floats run in floats."""
    for layer in file.graph.layers(WEIGHTED):
        if file.graph.dequantizer(layer.input[0]) is None:
            yield QdqFinding("warning", layer.name, "its input is a float, so it runs as a float layer")


@rule
def residuals(file: _File) -> Iterator[QdqFinding]:
    """Where pairs belong at a residual add: always on the shortcut, on the main branch where the dialect says."""
    for add in residual_adds(file.structure):
        name = add.node.name or ""
        if file.graph.dequantizer(add.shortcut.name or "") is None:
            yield QdqFinding("warning", name, f"its shortcut {add.shortcut.name} is a float, so the add is not fused")
        main = file.graph.dequantizer(add.main.name or "") is not None
        if main and not file.rules.every_output:
            message = f"its main branch {add.main.name} is quantized, which rounds once more"
            yield QdqFinding("warning", name, f"{message} and keeps {file.rules.name} from fusing the add")
        elif not main and file.rules.every_output:
            yield QdqFinding(
                "warning", name, f"its main branch {add.main.name} is a float, so its convolution runs in floats"
            )
