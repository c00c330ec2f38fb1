"""The convolutions of an ONNX variant: their work, and the nodes behind them that a good engine fuses."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import onnx

from resnetrt.errors import CheckFailed

PASS_THROUGH = {"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"}
_FUSABLE = {"BatchNormalization", "Relu", "Clip", "Add"}


@dataclass(frozen=True)
class Follower:
    """A BatchNormalization, activation or residual add behind a convolution."""

    name: str
    op: str


@dataclass(frozen=True)
class Convolution:
    """A convolution of the variant: `macs` for one image, the constants it reads, what follows it up to a branch."""

    name: str
    macs: int
    constants: tuple[str, ...]
    output: str
    followers: tuple[Follower, ...]


class SourceGraph:
    """The ONNX graph of a variant, indexed for the audit: its `convolutions` by name, and the operator of each node."""

    def __init__(self, path: Path) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        graph = model.graph
        self._nodes = [(node.name or node.output[0], node) for node in graph.node]
        self.ops = {name: node.op_type for name, node in self._nodes}
        self._shapes = {item.name: list(item.dims) for item in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self._shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        self._constants = {item.name for item in graph.initializer}
        self._producers = {output: node for node in graph.node for output in node.output}
        self._consumers: dict[str, list[tuple[str, onnx.NodeProto]]] = defaultdict(list)
        for name, node in self._nodes:
            for tensor in node.input:
                self._consumers[tensor].append((name, node))
        self.convolutions = self._read(path.name)

    def _read(self, file: str) -> dict[str, Convolution]:
        """By name, in execution order; an add between two convolutions belongs to the later one."""
        found: dict[str, Convolution] = {}
        taken: set[str] = set()
        for name, node in reversed(self._nodes):
            if node.op_type != "Conv":
                continue
            followers = tuple(item for item in self._followers(node.output[0]) if item.name not in taken)
            taken.update(item.name for item in followers)
            constants = tuple(filter(None, map(self._constant, node.input[1:])))
            found[name] = Convolution(name, self._macs(node, file), constants, node.output[0], followers)
        if not found:
            raise CheckFailed(f"{file}: expected convolutions, found none; there is nothing to audit")
        return dict(reversed(found.items()))

    def _macs(self, node: onnx.NodeProto, file: str) -> int:
        weight = self._shapes.get(self._constant(node.input[1]) or node.input[1])
        output = self._shapes.get(node.output[0])
        if not weight or not output or len(output) != len(weight):
            raise CheckFailed(f"{file}: the shapes of convolution {node.name} are unknown, so is its work")
        return int(math.prod(output[2:]) * math.prod(weight))

    def _constant(self, tensor: str) -> str | None:
        """The initializer that `tensor` is, or is made of by (de)quantization alone."""
        while tensor not in self._constants:
            node = self._producers.get(tensor)
            if node is None or node.op_type not in PASS_THROUGH:
                return None
            tensor = node.input[0]
        return tensor

    def _followers(self, tensor: str) -> list[Follower]:
        """The chain of fusable nodes behind `tensor`, through (de)quantization and casts."""
        chain: list[Follower] = []
        while True:
            users = self._users(tensor)
            if len(users) != 1 or users[0][1].op_type not in _FUSABLE:
                return chain
            name, node = users[0]
            if node.op_type == "Add" and any(item.op == "Add" for item in chain):
                return chain
            chain.append(Follower(name, node.op_type))
            tensor = node.output[0]

    def _users(self, tensor: str) -> list[tuple[str, onnx.NodeProto]]:
        found: dict[str, tuple[str, onnx.NodeProto]] = {}
        for name, node in self._consumers[tensor]:
            inner = self._users(node.output[0]) if node.op_type in PASS_THROUGH else [(name, node)]
            found.update({item[0]: item for item in inner})
        return list(found.values())
