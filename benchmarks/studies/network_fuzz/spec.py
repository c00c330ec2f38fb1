"""A network as data: the grammar draws it, the builder builds it, the shrinker cuts it, and a file stores it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Layer = dict[str, Any]  # `op` and the options of its builder; a block has `body`, or `bodies`, of layers


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that determines a network: equal specs give equal weights, images and statistics.

    `mode` and `size` `(H, W)` belong to its preprocessing. `layout` says how its modules are nested, `statistics` what
    its norms have seen (`plain`, `spread`, `odd`). `head` has the options of `build.build_head`.
    """

    seed: int
    layers: tuple[Layer, ...]
    mode: str = "RGB"
    size: tuple[int, int] = (16, 16)
    head: dict[str, Any] = field(default_factory=dict)
    layout: str = "nested"
    statistics: str = "plain"
    frames: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `from_json` reads."""
        return asdict(self) | {"layers": list(self.layers), "size": list(self.size)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "NetworkSpec":
        """The inverse of `to_json`. Raises `KeyError` or `TypeError` for anything but a spec."""
        height, width = record["size"]
        return cls(**(record | {"layers": tuple(record["layers"]), "size": (int(height), int(width))}))

    def with_layers(self, layers: list[Layer]) -> "NetworkSpec":
        """The same network with other layers."""
        return replace(self, layers=tuple(layers))

    def listing(self) -> str:
        """The network in a few lines that read like Python."""
        heading = f"# seed {self.seed}, {self.mode} {self.size[0]}x{self.size[1]}, {self.layout}, {self.statistics}"
        lines = [heading + (", also from uint8 frames" if self.frames else "")]
        lines += _lines(self.layers, "x", 0)
        return "\n".join([*lines, f"return {_call('head', self.head)}(x)"]) + "\n"


def key_of(spec: NetworkSpec) -> str:
    """Canonical text: equal for equal specs."""
    return json.dumps(spec.to_json(), sort_keys=True)


def _lines(layers: tuple[Layer, ...] | list[Layer], name: str, depth: int) -> Iterator[str]:
    indent = "    " * depth
    for layer in layers:
        options = {key: value for key, value in layer.items() if key not in ("op", "body", "bodies")}
        bodies = [layer["body"]] if "body" in layer else layer.get("bodies", [])
        yield f"{indent}{name} = {_call(layer['op'], options)}({name})" + (" of" if bodies else "")
        for index, body in enumerate(bodies):
            yield from _lines(body, f"{name}{index}", depth + 1)


def _call(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items() if key != 'op')})"
