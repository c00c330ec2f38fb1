"""The multiplying nodes of a variant: their work, and the nodes behind them that a good engine fuses."""

from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from resnetrt.errors import BackendMissing
from resnetrt.export.variants.outline import Outline, OutlineNode
from resnetrt.parts import how_to_get

PASS_THROUGH = {"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_FUSABLE = {"BatchNormalization", "Relu", "Clip", "Add"}
_MOVES = PASS_THROUGH | {"Transpose", "Reshape"}  # what may stand between a constant and its reader


@dataclass(frozen=True)
class Follower:
    """A BatchNormalization, activation or residual add behind a convolution."""

    name: str
    op: str


@dataclass(frozen=True)
class MacNode:
    """A convolution or matrix product: `macs` for one image, the constants it reads, what follows up to a branch."""

    name: str
    op: str
    macs: int
    constants: tuple[str, ...]
    followers: tuple[Follower, ...]


class SourceGraph:
    """The graph of a variant, indexed for the audit.

    `mac_nodes` by name, in execution order; `ops` is the operator of each node.
    """

    @classmethod
    def of(cls, variant: Path) -> "SourceGraph":
        """The graph of an ONNX file: by the outline stored beside it, else read from the file itself.

        Raises `BackendMissing` if nothing is stored and the package onnx is not here, `CheckFailed` if the file
        multiplies nothing, or its shapes can't be told.
        """
        if (stored := Outline.stored(variant)) is not None:
            return cls(stored)
        try:
            from resnetrt.export.variants.read_outline import read_outline
        except ModuleNotFoundError as error:
            if error.name != "onnx":
                raise
            raise BackendMissing(
                f"{variant}: no outline is stored beside it, and the package onnx, which could make one, is not "
                f"installed; make the variant again on a workstation, or run: {how_to_get('onnx')}"
            ) from error
        return cls(read_outline(variant))

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self.ops = {node.name: node.op for node in outline.nodes}
        self._outputs = {node.name: node.outputs for node in outline.nodes}
        self._producers = {output: node for node in outline.nodes for output in node.outputs}
        self._makers = {output: node.name for output, node in self._producers.items()}
        self._consumers: dict[str, list[OutlineNode]] = defaultdict(list)
        for node in outline.nodes:
            for tensor in node.inputs:
                self._consumers[tensor].append(node)
        self.mac_nodes = self._read()
        self._sources: dict[str, frozenset[str]] = {}

    def node_of(self, label: str) -> str | None:
        """The node that a backend's `label` means: its name or its output, which may be followed by `/` and more."""
        while label:
            if label in self.ops:
                return label
            if label in self._makers:
                return self._makers[label]
            label = label.rpartition("/")[0]
        return None

    def sources_of(self, node: str) -> frozenset[str]:
        """`node` itself if it multiplies, else the multiplying nodes whose results reach it through others."""
        if not self._sources:
            for each in self._outline.nodes:
                above = [self._sources.get(self._makers[item]) for item in each.inputs if item in self._makers]
                reached = frozenset[str]().union(*filter(None, above))
                self._sources[each.name] = frozenset([each.name]) if each.name in self.mac_nodes else reached
        return self._sources.get(node, frozenset())

    def first_behind(self, node: str, stops: Container[str]) -> set[str]:
        """Where the results of `node` go: the first of `stops` on every way, or the last node of one without any."""
        ends: set[str] = set()
        seen, waiting = {node}, [node]
        while waiting:
            name = waiting.pop()
            readers = [reader.name for output in self._outputs[name] for reader in self._consumers[output]]
            if not readers or (name != node and name in stops):
                ends.add(name)
                continue
            waiting += [reader for reader in readers if reader not in seen]
            seen.update(readers)
        return ends

    def _read(self) -> dict[str, MacNode]:
        """By name, in execution order; an add between two convolutions belongs to the later one."""
        nodes: dict[str, MacNode] = {}
        taken: set[str] = set()
        for node in reversed(self._outline.nodes):
            if node.name not in self._outline.macs:
                continue
            followers = tuple(item for item in self._followers(node) if item.name not in taken)
            taken.update(item.name for item in followers)
            macs = self._outline.macs[node.name]
            nodes[node.name] = MacNode(node.name, node.op, macs, tuple(self._read_by(node)), followers)
        return dict(reversed(nodes.items()))

    def _read_by(self, node: OutlineNode) -> Iterator[str]:
        """The initializers that `node` reads, the weight first, as they are or with type and order changed."""
        for read in (*node.inputs[1:], node.inputs[0]):
            tensor = read
            while tensor in self._producers and self._producers[tensor].op in _MOVES:
                tensor = self._producers[tensor].inputs[0]
            if tensor in self._outline.constants:
                yield tensor

    def _followers(self, node: OutlineNode) -> list[Follower]:
        """The chain of fusable nodes behind a convolution, through (de)quantization and casts."""
        chain: list[Follower] = []
        tensor = node.outputs[0]
        while node.op in _CONVOLUTIONS:
            users = self._users(tensor)
            if len(users) != 1 or users[0].op not in _FUSABLE:
                break
            (user,) = users
            if user.op == "Add" and any(item.op == "Add" for item in chain):
                break
            chain.append(Follower(user.name, user.op))
            tensor = user.outputs[0]
        return chain

    def _users(self, tensor: str) -> list[OutlineNode]:
        users: dict[str, OutlineNode] = {}
        for node in self._consumers[tensor]:
            inner = self._users(node.outputs[0]) if node.op in PASS_THROUGH else [node]
            users.update({item.name: item for item in inner})
        return list(users.values())
