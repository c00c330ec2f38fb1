"""The audit of one engine: its executed layers against the convolutions of the variant it was compiled from."""

import importlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.export.audit.layers import UNKNOWN, Evidence, ExecutedLayer, layer_json
from resnetrt.export.audit.source import SourceGraph

READERS: dict[str, str] = {
    "onnxruntime": "resnetrt.export.audit.onnxruntime",
    "openvino": "resnetrt.export.audit.openvino",
    "tensorrt": "resnetrt.export.audit.tensorrt",
    "tensorrt_rtx": "resnetrt.export.audit.tensorrt",
}


@dataclass(frozen=True)
class Unfused:
    """An ONNX `node` behind convolution `conv` that runs in a layer of its own; `layer` is None if none names it."""

    conv: str
    node: str
    op: str
    layer: str | None


@dataclass(frozen=True)
class Island:
    """A convolution that runs in another precision than the engine's; `share` of the convolution work."""

    conv: str
    precision: str
    share: float


@dataclass(frozen=True)
class EngineAudit:
    """What was found in one engine. Shares are of the convolutions' multiply-accumulates and sum to 1."""

    engine: str
    backend: str
    precision: str
    evidence: Evidence
    convolutions: int
    share_by_precision: dict[str, float]
    macs_by_layer: dict[str, int]
    unfused: tuple[Unfused, ...]
    islands: tuple[Island, ...]

    def count(self, kind: str) -> int:
        """How many executed layers only quantize, cast or reformat."""
        return sum(layer.kind == kind for layer in self.evidence.layers)

    def to_json(self) -> dict[str, Any]:
        """The record under `engines[]`."""
        return {
            "engine": self.engine,
            "backend": self.backend,
            "precision": self.precision,
            "read_from": self.evidence.read_from,
            "convolutions": self.convolutions,
            "share_by_precision": self.share_by_precision,
            "islands": [asdict(item) for item in self.islands],
            "unfused": [asdict(item) for item in self.unfused],
            "quantize_layers": self.count("quantize"),
            "cast_layers": self.count("cast"),
            "reformat_layers": self.count("reformat"),
            "layers": [layer_json(layer, self.macs_by_layer.get(layer.name, 0)) for layer in self.evidence.layers],
        }


def audit_engine(bundle: Bundle, engine: str | None = None) -> EngineAudit:
    """Audit an engine of `bundle`, by default the only one.

    Raises `UsageError` for a backend that shows no layers, `CheckFailed` if the variant has no convolutions, and what
    loading the engine raises.
    """
    name = bundle.select_engine(engine)
    record = bundle.manifest.engines[name]
    sidecar = bundle.read_json(record.sidecar)
    if sidecar["backend"] not in READERS:
        raise UsageError.unknown("backend to audit", sidecar["backend"], READERS)
    source = SourceGraph(bundle.variant_file(record.variant))
    reader = importlib.import_module(READERS[sidecar["backend"]])
    return judge(sidecar, source, reader.read_layers(bundle.file(record.file), sidecar, source))


def judge(sidecar: dict[str, Any], source: SourceGraph, evidence: Evidence) -> EngineAudit:
    """Compare executed layers with the variant's convolutions; one that no layer runs counts as `unknown`."""
    runs_in = _runs_in(source, evidence.layers)
    total = sum(conv.macs for conv in source.convolutions.values())
    shares: dict[str, float] = defaultdict(float)
    macs_by_layer: dict[str, int] = defaultdict(int)
    islands = []
    for conv in source.convolutions.values():
        layer = runs_in.get(conv.name)
        precision = layer.precision if layer else UNKNOWN
        shares[precision] += conv.macs / total
        if layer:
            macs_by_layer[layer.name] += conv.macs
        if precision != sidecar["precision"]:
            islands.append(Island(conv.name, precision, conv.macs / total))
    return EngineAudit(
        engine=sidecar["id"],
        backend=sidecar["backend"],
        precision=sidecar["precision"],
        evidence=evidence,
        convolutions=len(source.convolutions),
        share_by_precision={name: round(share, 6) for name, share in sorted(shares.items())},
        macs_by_layer=dict(macs_by_layer),
        unfused=tuple(_unfused(source, evidence, runs_in)),
        islands=tuple(islands),
    )


def _runs_in(source: SourceGraph, layers: Iterable[ExecutedLayer]) -> dict[str, ExecutedLayer]:
    """The layer that runs each convolution; of several that name it, the first that is work."""
    found: dict[str, ExecutedLayer] = {}
    for layer in layers:
        for name in layer.source:
            if name in source.convolutions and layer.kind == "compute":
                found.setdefault(name, layer)
    return found


def _unfused(source: SourceGraph, evidence: Evidence, runs_in: dict[str, ExecutedLayer]) -> Iterable[Unfused]:
    """The followers that no layer with a convolution runs."""
    convolutions = {id(layer) for layer in runs_in.values()}
    fused = {name for layer in runs_in.values() for name in layer.source}
    alone = {name: layer.name for layer in evidence.layers if id(layer) not in convolutions for name in layer.source}
    for conv in source.convolutions.values():
        for follower in conv.followers:
            if follower.name not in fused and (follower.name in alone or evidence.complete):
                yield Unfused(conv.name, follower.name, follower.op, alone.get(follower.name))
