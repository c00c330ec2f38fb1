"""The outline of a variant: its nodes and how much each multiplies, stored beside the ONNX file.

With it a device audits the engines that it compiles, without the package onnx.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.fields import Fields
from resnetrt.manifest import parse_json_object

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class OutlineNode:
    """A node of the graph: its name, or its first output's for one without a name; operator; names of its values."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """`nodes` in execution order, the names of the `constants`, and `macs` for one image by multiplying node."""

    nodes: tuple[OutlineNode, ...]
    constants: frozenset[str]
    macs: dict[str, int]

    @classmethod
    def stored(cls, variant: Path) -> "Outline | None":
        """The outline stored beside the ONNX file `variant`; None if there is none. Raises `BundleError` if damaged."""
        path = variant.parent / outline_file(variant.name)
        return cls._from_json(parse_json_object(path.read_bytes(), str(path)), str(path)) if path.is_file() else None

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "schema_version": SCHEMA_VERSION,
            "nodes": [vars(node) | {"inputs": list(node.inputs), "outputs": list(node.outputs)} for node in self.nodes],
            "constants": sorted(self.constants),
            "macs": self.macs,
        }

    @classmethod
    def _from_json(cls, stored: dict[str, Any], where: str) -> "Outline":
        fields = Fields(stored, where, "make the variant again")
        if fields.get("schema_version", int) != SCHEMA_VERSION:
            fields.refuse("schema_version", str(SCHEMA_VERSION))
        nodes = tuple(
            OutlineNode(
                node.get("name", str), node.get("op", str), node.items("inputs", str), node.items("outputs", str)
            )
            for node in fields.inners("nodes")
        )
        macs = fields.inner("macs")
        order = {node.name: macs.get(node.name, int) for node in nodes if node.name in macs.stored}
        return cls(nodes, frozenset(fields.items("constants", str)), order)


def outline_file(variant_file: str) -> str:
    """Where in a bundle the outline of an ONNX file is."""
    return f"outlines/{variant_file.removesuffix('.onnx')}.json"
