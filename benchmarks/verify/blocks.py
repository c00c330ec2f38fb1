"""A network's blocks, from the graph's structure: residual blocks, and each layer outside of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from resnetrt.calibration.graph.structure import is_constant, residual_adds, weighted_layers

_FOLLOWERS = ("Relu", "Clip", "LeakyRelu")


@dataclass(frozen=True)
class Block:
    """`name` is its module's, `nodes` are its layers and its add, `output` is the block's output value."""

    name: str
    nodes: frozenset[str]
    output: str


def find_blocks(path: Path) -> list[Block]:
    """The blocks of the float ONNX file at `path`, in graph order."""
    graph = ir.load(str(path)).graph
    order = {id(node): place for place, node in enumerate(graph)}
    layers = {id(node) for node in weighted_layers(graph)}
    blocks: list[tuple[int, Block]] = []
    taken: set[int] = set()
    for add in residual_adds(graph):
        branches = {id(node): node for node in _between(add.main, add.shortcut)}
        own = [node for key, node in branches.items() if key in layers and key not in taken]
        taken |= set(map(id, own))
        last = _end(add.node)
        names = frozenset(node.name or "" for node in [*own, add.node])
        blocks.append((order[id(last)], Block(_name([*own, add.node]), names, last.outputs[0].name or "")))
    for node in weighted_layers(graph):
        if id(node) not in taken:
            last = _end(node)
            block = Block(node.name or "", frozenset([node.name or ""]), last.outputs[0].name or "")
            blocks.append((order[id(last)], block))
    return [block for _, block in sorted(blocks, key=lambda item: item[0])]


def _between(first: ir.Value, second: ir.Value) -> list[ir.Node]:
    """Nodes above exactly one of the two values: both branches, from the fork down."""
    above = [{id(node): node for node in _ancestors(value)} for value in (first, second)]
    return [node for key, node in (above[0] | above[1]).items() if (key in above[0]) != (key in above[1])]


def _ancestors(value: ir.Value) -> Iterator[ir.Node]:
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        producer = waiting.pop().producer()
        if producer is not None and id(producer) not in seen:
            seen.add(id(producer))
            yield producer
            waiting += [item for item in producer.inputs if item is not None]


def _end(node: ir.Node) -> ir.Node:
    """The end of a layer: `node`, or the MatMul's bias add or the activation behind it if that is the only reader."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1:
        return node
    reader = uses[0].node
    if node.op_type == "MatMul" and reader.op_type == "Add" and any(map(is_constant, reader.inputs)):
        return _end(reader)
    return reader if reader.op_type in _FOLLOWERS else node


def _name(nodes: list[ir.Node]) -> str:
    """The module that holds all `nodes`: the common beginning of their names."""
    prefix = []
    for parts in zip(*((node.name or "").split(".") for node in nodes), strict=False):
        if len(set(parts)) > 1:
            break
        prefix.append(parts[0])
    return ".".join(prefix) or nodes[-1].name or ""
