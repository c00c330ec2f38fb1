"""OpenVINO: the execution graph of the compiled model."""

from pathlib import Path
from typing import Any

from resnetrt.export.audit.layers import Evidence, ExecutedLayer, Kind, precision_of
from resnetrt.export.audit.source import SourceGraph
from resnetrt.runtime.backends import import_package
from resnetrt.runtime.backends.openvino import load

_NO_WORK = {"Const", "Input", "Output", "Parameter", "Result"}
_KINDS: dict[str, Kind] = {
    "FakeQuantize": "quantize",
    "Quantize": "quantize",
    "Convert": "cast",
    "Reorder": "reformat",
    "Transpose": "reformat",
}


def read_layers(engine_path: Path, sidecar: dict[str, Any], source: SourceGraph) -> Evidence:
    """The execution graph of the engine, without constants and what is computed from constants alone.

    Of an engine's graphs for several batch sizes it is the worst: most layers in another precision, then most.
    """
    ov = import_package("openvino")
    with load(engine_path, sidecar, threads=1) as session:
        found = [_executed(graph) for graph in session.execution_graphs().values()]
    worst = max(found, key=lambda layers: (sum(_strays(layer, sidecar) for layer in layers), len(layers)))
    return Evidence(tuple(worst), f"execution graph of OpenVINO {ov.get_version()}")


def _strays(layer: ExecutedLayer, sidecar: dict[str, Any]) -> bool:
    return layer.kind == "compute" and layer.precision != sidecar["precision"]


def _executed(graph: Any) -> list[ExecutedLayer]:
    constant: set[str] = set()
    layers = []
    for node in graph.get_ordered_ops():
        kind = _info(node, "layerType")
        parents = [port.get_node().get_friendly_name() for port in node.input_values()]
        if kind == "Const" or (parents and constant.issuperset(parents)):
            constant.add(node.get_friendly_name())
        elif kind not in _NO_WORK:
            layers.append(_layer(node, kind))
    return layers


def _layer(node: Any, kind: str) -> ExecutedLayer:
    return ExecutedLayer(
        name=node.get_friendly_name(),
        op=kind,
        precision=precision_of(_info(node, "runtimePrecision")),
        kind=_KINDS.get(kind, "compute"),
        source=tuple(name for name in _info(node, "originalLayersNames").split(",") if name),
    )


def _info(node: Any, key: str) -> str:
    found = node.rt_info[key] if key in node.rt_info else ""  # noqa: SIM401
    return str(getattr(found, "value", found))
