"""From a network that fails to the smallest one that still fails."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from resnetrt.benchmarks.studies.network_fuzz.spec import Layer, NetworkSpec, key_of

Fails = Callable[[NetworkSpec], bool]


def shrink(spec: NetworkSpec, fails: Fails, most_trials: int = 80) -> NetworkSpec:
    """The smallest network found in `most_trials` trials for which `fails` still holds; it must hold for `spec`.

    Layers are left out (large parts first), blocks are replaced by their bodies, and options by their defaults.
    """
    tried = {key_of(spec)}
    trials = 0
    progress = True
    while progress:
        progress = False
        for candidate in _smaller(spec):
            if key_of(candidate) in tried:
                continue
            if trials == most_trials:
                return spec
            tried.add(key_of(candidate))
            trials += 1
            if fails(candidate):
                spec, progress = candidate, True
                break
    return spec


def _smaller(spec: NetworkSpec) -> Iterator[NetworkSpec]:
    """Specs that are one step simpler, largest steps first."""
    layers = list(spec.layers)
    for size in (len(layers) // 2, len(layers) // 4):
        if size > 1:
            for start in range(0, len(layers), size):
                yield spec.with_layers(layers[:start] + layers[start + size :])
    for fewer in _fewer(layers):
        yield spec.with_layers(fewer)
    plain = NetworkSpec(spec.seed, spec.layers)
    for name in ("frames", "layout", "statistics", "head", "mode"):
        if getattr(spec, name) != getattr(plain, name):
            yield replace(spec, **{name: getattr(plain, name)})
    for option in spec.head:
        yield replace(spec, head={key: value for key, value in spec.head.items() if key != option})
    for edge in (8, 16):
        if spec.size != (edge, edge) and edge < max(spec.size):
            yield replace(spec, size=(edge, edge))
    for plainer in _plainer(layers):
        yield spec.with_layers(plainer)


def _fewer(layers: list[Layer]) -> Iterator[list[Layer]]:
    """One layer less, or one block replaced by its body, at any depth."""
    for index, layer in enumerate(layers):
        before, after = layers[:index], layers[index + 1 :]
        yield before + after
        for body in _bodies(layer):
            yield before + body + after
    for index, layer in enumerate(layers):
        before, after = layers[:index], layers[index + 1 :]
        if "body" in layer:
            for body in _fewer(layer["body"]):
                if body:
                    yield [*before, layer | {"body": body}, *after]
        for place, body in enumerate(layer.get("bodies", [])):
            for fewer in _fewer(body):
                bodies = [*layer["bodies"][:place], fewer, *layer["bodies"][place + 1 :]]
                yield [*before, layer | {"bodies": bodies}, *after]


def _plainer(layers: list[Layer]) -> Iterator[list[Layer]]:
    """One option less, at any depth."""
    for index, layer in enumerate(layers):
        before, after = layers[:index], layers[index + 1 :]
        for option in layer:
            if option not in ("op", "body", "bodies"):
                yield [*before, {key: value for key, value in layer.items() if key != option}, *after]
        if "body" in layer:
            for body in _plainer(layer["body"]):
                yield [*before, layer | {"body": body}, *after]
        for place, body in enumerate(layer.get("bodies", [])):
            for plainer in _plainer(body):
                bodies = [*layer["bodies"][:place], plainer, *layer["bodies"][place + 1 :]]
                yield [*before, layer | {"bodies": bodies}, *after]


def _bodies(layer: Layer) -> list[list[Layer]]:
    return [layer["body"]] if "body" in layer else list(layer.get("bodies", []))
