"""OpenVINO: the execution graph of the compiled model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnetrt.engine_record import EngineRecord
from resnetrt.export.audit.layers import Evidence, ExecutedLayer, Kind, precision_of
from resnetrt.export.audit.source import SourceGraph
from resnetrt.parts import import_part
from resnetrt.runtime.backends.openvino import load

_NO_WORK = {"Const", "Input", "Output", "Parameter", "Result"}
_KINDS: dict[str, Kind] = {
    "FakeQuantize": "quantize",
    "Quantize": "quantize",
    "Convert": "cast",
    "Reorder": "reformat",
    "Transpose": "reformat",
}
_MULTIPLIES = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_PLAIN = {"Eltwise", "Split", "StridedSlice", "Reshape", "Concatenation", "MVN", "Softmax", *_KINDS}  # no products


def read_layers(engine_path: Path, record: EngineRecord, _source: SourceGraph) -> list[Evidence]:
    """The execution graphs of the engine, without constants and what is computed from constants alone.

    There is one for each batch size that it was compiled for.
    """
    ov = import_part("openvino", "backend openvino")
    with load(engine_path, record, threads=1) as session:
        graphs = session.execution_graphs().values()
        return [Evidence(_executed(graph), f"execution graph of OpenVINO {ov.get_version()}") for graph in graphs]


def _executed(graph: Any) -> tuple[ExecutedLayer, ...]:
    behind: dict[str, tuple[str, ...]] = {}  # for each value computed from constants only: the constants behind it
    layers = []
    for node in graph.get_ordered_ops():
        kind, name = _info(node, "layerType"), node.get_friendly_name()
        parents = [port.get_node().get_friendly_name() for port in node.input_values()]
        constants = tuple(constant for parent in parents for constant in behind.get(parent, ()))
        if kind == "Const":
            behind[name] = (name,)
        elif parents and behind.keys() >= set(parents):
            behind[name] = constants
        elif kind not in _NO_WORK:
            layers.append(_layer(node, kind, constants, tuple(parents)))
    return tuple(layers)


def _layer(node: Any, kind: str, constants: tuple[str, ...], inputs: tuple[str, ...]) -> ExecutedLayer:
    return ExecutedLayer(
        name=node.get_friendly_name(),
        op=kind,
        precision=precision_of(_info(node, "runtimePrecision")),
        kind=_KINDS.get(kind, "compute"),
        source=_labels(node),
        constants=constants,
        inputs=inputs,
        readers=tuple(label for port in node.outputs() for reader in _readers(port) for label in _labels(reader)),
        multiplies=kind in _MULTIPLIES or (False if kind in _PLAIN else None),
        composite=kind == "Subgraph",
    )


def _labels(node: Any) -> tuple[str, ...]:
    return tuple(name for name in _info(node, "originalLayersNames").split(",") if name)


def _readers(port: Any) -> Iterator[Any]:
    """The nodes that read `port`, past those that only change types or memory order."""
    for target in port.get_target_inputs():
        node = target.get_node()
        if _info(node, "layerType") in _KINDS:
            for output in node.outputs():
                yield from _readers(output)
        else:
            yield node


def _info(node: Any, key: str) -> str:
    entry = node.rt_info[key] if key in node.rt_info else ""  # noqa: SIM401
    return str(getattr(entry, "value", entry))
