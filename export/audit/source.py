"""The multiplying nodes of an ONNX variant: their work, and the nodes behind them that a good engine fuses."""

import math
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from resnetrt.errors import CheckFailed
from resnetrt.export.trace.ceil_pools import rewrite_ceil_pools
from resnetrt.export.variants.qdq import WEIGHTED

PASS_THROUGH = {"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_MULTIPLIES = (*WEIGHTED, "ConvTranspose")
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
    """The ONNX graph of a variant, indexed for the audit.

    `mac_nodes` by name, in execution order; `ops` is the operator of each node. Raises `CheckFailed` if there are none,
    or if their work can't be told.
    """

    def __init__(self, path: Path) -> None:
        model = _for_one_image(onnx.load(str(path)))
        graph = model.graph
        self._file = path.name
        self._nodes = [(node.name or node.output[0], node) for node in graph.node]
        self.ops = {name: node.op_type for name, node in self._nodes}
        self._outputs = {name: tuple(node.output) for name, node in self._nodes}
        self._constants = {item.name for item in graph.initializer}
        self._producers = {output: (name, node) for name, node in self._nodes for output in node.output}
        self._makers: dict[str, str] = {output: name for output, (name, _) in self._producers.items()}
        self._consumers: dict[str, list[tuple[str, onnx.NodeProto]]] = defaultdict(list)
        for name, node in self._nodes:
            for tensor in node.input:
                self._consumers[tensor].append((name, node))
        self._shapes = _shapes(model, [node for _, node in self._nodes if node.op_type in _MULTIPLIES])
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
            for name, each in self._nodes:
                above = [self._sources.get(self._makers[item]) for item in each.input if item in self._makers]
                reached = frozenset[str]().union(*filter(None, above))
                self._sources[name] = frozenset([name]) if name in self.mac_nodes else reached
        return self._sources.get(node, frozenset())

    def first_behind(self, node: str, stops: Container[str]) -> set[str]:
        """Where the results of `node` go: the first of `stops` on every way, or the last node of one without any."""
        found: set[str] = set()
        seen, waiting = {node}, [node]
        while waiting:
            name = waiting.pop()
            readers = [reader for output in self._outputs[name] for reader, _ in self._consumers[output]]
            if not readers or (name != node and name in stops):
                found.add(name)
                continue
            waiting += [reader for reader in readers if reader not in seen]
            seen.update(readers)
        return found

    def _read(self) -> dict[str, MacNode]:
        """By name, in execution order; an add between two convolutions belongs to the later one."""
        found: dict[str, MacNode] = {}
        taken: set[str] = set()
        for name, node in reversed(self._nodes):
            if node.op_type not in _MULTIPLIES:
                continue
            followers = tuple(item for item in self._followers(node) if item.name not in taken)
            taken.update(item.name for item in followers)
            found[name] = MacNode(name, node.op_type, self._macs(node), tuple(self._read_by(node)), followers)
        if not found:
            raise CheckFailed(f"{self._file}: expected convolutions or matrix products, found none to audit")
        return dict(reversed(found.items()))

    def _macs(self, node: onnx.NodeProto) -> int:
        left, right, output = (self._shapes.get(name) for name in (*node.input[:2], node.output[0]))
        if left is None or right is None or output is None:
            raise CheckFailed(f"{self._file}: the shapes of {node.op_type} {node.name} are unknown, so is its work")
        if node.op_type == "ConvTranspose":
            return math.prod(left) * math.prod(right[1:])
        if node.op_type == "Conv":
            return math.prod(output) * math.prod(right[1:])
        rows_first = any(item.name == "transA" and item.i for item in node.attribute)
        return math.prod(output) * left[0 if rows_first else -1]

    def _read_by(self, node: onnx.NodeProto) -> Iterator[str]:
        """The initializers that `node` reads, the weight first, as they are or with type and order changed."""
        for read in (*node.input[1:], node.input[0]):
            tensor = read
            while tensor in self._producers and self._producers[tensor][1].op_type in _MOVES:
                tensor = self._producers[tensor][1].input[0]
            if tensor in self._constants:
                yield tensor

    def _followers(self, node: onnx.NodeProto) -> list[Follower]:
        """The chain of fusable nodes behind a convolution, through (de)quantization and casts."""
        chain: list[Follower] = []
        tensor = node.output[0]
        while node.op_type in _CONVOLUTIONS:
            users = self._users(tensor)
            if len(users) != 1 or users[0][1].op_type not in _FUSABLE:
                break
            name, user = users[0]
            if user.op_type == "Add" and any(item.op == "Add" for item in chain):
                break
            chain.append(Follower(name, user.op_type))
            tensor = user.output[0]
        return chain

    def _users(self, tensor: str) -> list[tuple[str, onnx.NodeProto]]:
        found: dict[str, tuple[str, onnx.NodeProto]] = {}
        for name, node in self._consumers[tensor]:
            inner = self._users(node.output[0]) if node.op_type in PASS_THROUGH else [(name, node)]
            found.update({item[0]: item for item in inner})
        return list(found.values())


def _for_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its batch axis set to 1, and no shapes but those of its input and initializers."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_value = 1
    del model.graph.value_info[:]
    return model


def _shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, tuple[int, ...]]:
    """Shapes for one image, of all that `nodes` read and write: inferred, or seen in a run where inference stops."""
    rewrite_ceil_pools(model)  # in a file from another tool, whose sizes would be inferred wrong
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {item.name: tuple(item.dims) for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    wanted = {name for node in nodes for name in (*node.input[:2], node.output[0])}
    missing = wanted - shapes.keys()
    return shapes | _seen_shapes(model, missing) if missing else shapes


def _seen_shapes(model: onnx.ModelProto, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of the values `names` when the model runs on zeros; none if it does not run."""
    from resnetrt.export.variants.inner_values import InnerValues

    kind = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]
    try:
        zeros = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return {name: value.shape for name, value in InnerValues(model, names).of(zeros).items()}
    except Exception:  # ONNX Runtime has its own types; what stays unknown is said by the caller
        return {}
