"""The audit of one engine: its executed layers against the multiplying nodes of the variant it was compiled from."""

import importlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.export.audit.layers import UNKNOWN, Evidence, ExecutedLayer, layer_json
from resnetrt.export.audit.match import Matches, match_layers
from resnetrt.export.audit.source import SourceGraph

READERS: dict[str, str] = {
    "onnxruntime": "resnetrt.export.audit.onnxruntime",
    "openvino": "resnetrt.export.audit.openvino",
    "tensorrt": "resnetrt.export.audit.tensorrt",
    "tensorrt_rtx": "resnetrt.export.audit.tensorrt",
}


@dataclass(frozen=True)
class Unfused:
    """An ONNX `node` after convolution `conv` that runs in its own layer; `layer` is None if no layer names it."""

    conv: str
    node: str
    op: str
    layer: str | None


@dataclass(frozen=True)
class Island:
    """A convolution or matrix product that runs in another precision than the engine's; `share` of all their work."""

    node: str
    precision: str
    share: float


@dataclass(frozen=True)
class EngineAudit:
    """What was found in one engine. Shares are of all multiply-accumulates of convolutions and matrix products.

    They sum to 1; `operators` counts the nodes of the variant that do this work.
    """

    engine: str
    backend: str
    precision: str
    evidence: Evidence
    operators: dict[str, int]
    share_by_precision: dict[str, float]
    macs_by_layer: dict[str, int]
    unfused: tuple[Unfused, ...]
    islands: tuple[Island, ...]

    @property
    def own_share(self) -> float:
        """The share of the precision that the engine is named after."""
        return self.share_by_precision.get(self.precision, 0.0)

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
            "operators": self.operators,
            "share_by_precision": self.share_by_precision,
            "islands": [asdict(item) for item in self.islands],
            "unfused": [asdict(item) for item in self.unfused],
            "quantize_layers": self.count("quantize"),
            "cast_layers": self.count("cast"),
            "reformat_layers": self.count("reformat"),
            "layers": [layer_json(layer, self.macs_by_layer.get(layer.name, 0)) for layer in self.evidence.layers],
        }


def audit_engine(bundle: Bundle, engine: str | None = None) -> EngineAudit:
    """Audit an engine of `bundle`, by default the only one. Raises what `audit_file` does."""
    name = bundle.select_engine(engine)
    entry = bundle.manifest.engines[name]
    return audit_file(bundle.file(entry.file), bundle.read_engine(name), bundle.variant_file(entry.variant))


def audit_file(engine: Path, record: EngineRecord, variant: Path) -> EngineAudit:
    """Audit the `engine` file that was made of the ONNX file `variant`.

    If it holds several graphs, the one with the least work in the engine's precision counts. Raises `UsageError`
    for a backend that shows no layers, what `SourceGraph.of` raises, and what loading the engine raises.
    """
    if record.backend not in READERS:
        raise UsageError.unknown("backend to audit", record.backend, READERS)
    source = SourceGraph.of(variant)
    reader = importlib.import_module(READERS[record.backend])
    audits = [judge(record, source, evidence) for evidence in reader.read_layers(engine, record, source)]
    return min(audits, key=lambda audit: (audit.own_share, -len(audit.evidence.layers)))


def judge(record: EngineRecord, source: SourceGraph, evidence: Evidence) -> EngineAudit:
    """Compare executed layers with the variant's nodes; one that no layer runs counts as `unknown`."""
    runs_in = match_layers(source, evidence.layers)
    total = sum(node.macs for node in source.mac_nodes.values())
    shares: dict[str, float] = defaultdict(float)
    macs_by_layer: dict[str, int] = defaultdict(int)
    islands = []
    for node in source.mac_nodes.values():
        layer = runs_in.get(node.name)
        precision = layer.precision if layer else UNKNOWN
        shares[precision] += node.macs / total
        if layer:
            macs_by_layer[layer.name] += node.macs
        if precision != record.precision:
            islands.append(Island(node.name, precision, node.macs / total))
    return EngineAudit(
        engine=record.id,
        backend=record.backend,
        precision=record.precision,
        evidence=evidence,
        operators=dict(Counter(node.op for node in source.mac_nodes.values())),
        share_by_precision={name: round(share, 6) for name, share in sorted(shares.items())},
        macs_by_layer=dict(macs_by_layer),
        unfused=tuple(_unfused(source, evidence, runs_in)),
        islands=tuple(islands),
    )


def _unfused(source: SourceGraph, evidence: Evidence, runs_in: Matches) -> Iterable[Unfused]:
    """The followers that no layer with a convolution runs."""
    multiplying = {id(layer) for layer in runs_in.values()}
    fused = {name for layer in runs_in.values() for name in _nodes(source, layer)}
    others = [layer for layer in evidence.layers if id(layer) not in multiplying]
    alone = {name: layer.name for layer in others for name in _nodes(source, layer)}
    for node in source.mac_nodes.values():
        for follower in node.followers:
            if follower.name not in fused and (follower.name in alone or evidence.complete):
                yield Unfused(node.name, follower.name, follower.op, alone.get(follower.name))


def _nodes(source: SourceGraph, layer: ExecutedLayer) -> set[str]:
    return set(filter(None, map(source.node_of, layer.source)))
