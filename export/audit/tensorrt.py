"""TensorRT: the engine's kernels, from the layer list that the compiler stored beside it.

With the GPU at hand that list is the engine inspector's, else it comes out of the detailed build log.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BundleError
from resnetrt.export.audit.layers import UNKNOWN, Evidence, ExecutedLayer, Kind, precision_of
from resnetrt.export.audit.source import SourceGraph
from resnetrt.export.compilers.tensorrt.layers import EngineLayer
from resnetrt.manifest import parse_json_object
from resnetrt.runtime.backends import compile_again

# kernels that are generated around convolutions and matrix products; they name those that they serve
_GENERATED = "kgen"
_DLA = "DLA"  # the type of what runs there, one layer for many nodes; all others run on the GPU
_MOVES = {"Reformat", "NoOp"}
_CHANGES = {"QuantizeLinear", "DequantizeLinear", "Cast"}


def read_layers(engine_path: Path, record: EngineRecord, source: SourceGraph) -> list[Evidence]:
    """The layers stored beside the engine, those of each profile; raises `BundleError` if there are none."""
    path = engine_path.with_name(f"{record.id}.layers.json")
    stored = parse_json_object(path.read_bytes(), str(path)) if path.is_file() else {}
    layers = [EngineLayer.from_json(item) for item in stored.get("layers", [])]
    if not layers:
        raise BundleError(f"engine {record.id}: no layers are stored beside it; {compile_again(record)}")
    on_dla = record.options.get("dla_core") is not None
    by_profile = [[layer for layer in layers if layer.profile == index] for index in {item.profile for item in layers}]
    return [Evidence(executed(each, source, on_dla), str(stored["source"]), complete=True) for each in by_profile]


def executed(layers: Collection[EngineLayer], source: SourceGraph, on_dla: bool = False) -> tuple[ExecutedLayer, ...]:
    """The layers in the audit's words. Products belong to their own kernel, not to a generated one beside it.

    In an engine for the DLA what fell back to the GPU is not in the engine's precision, but in `fp16 on the GPU`.
    """
    kernels = {name for layer in layers if layer.type != _GENERATED for name in layer.onnx}
    audited = [_layer(layer, source, kernels & source.mac_nodes.keys()) for layer in layers]
    return tuple(_on_the_gpu(layer) if on_dla and layer.op != _DLA else layer for layer in audited)


def _on_the_gpu(layer: ExecutedLayer) -> ExecutedLayer:
    return replace(layer, precision=f"{layer.precision} on the GPU")


def _layer(layer: EngineLayer, source: SourceGraph, owned: Collection[str]) -> ExecutedLayer:
    generated = layer.type == _GENERATED
    names = tuple(name for name in layer.onnx if not (generated and name in owned))
    # what a kernel computes in is its weight's type: an INT8 convolution may write float
    tensors = layer.outputs if generated else (*layer.constants[:1], *layer.inputs[:1], *layer.outputs[:1])
    precision = precision_of(tensors[0].dtype) if tensors else UNKNOWN
    return ExecutedLayer(layer.name, layer.type, precision, _kind(layer.type, names, source), names)


def _kind(word: str, names: Collection[str], source: SourceGraph) -> Kind:
    """What a layer of TensorRT's type `word` does that runs the ONNX nodes `names`."""
    ops = {source.ops.get(name, "") for name in names}
    if word in _MOVES or (word == _GENERATED and not ops):
        return "reformat"
    if ops and ops <= _CHANGES:
        return "cast" if ops == {"Cast"} else "quantize"
    return "compute"
