"""Which executed layer does the work of which node of the variant.

Backends rename what they rewrite: a convolution that swallowed a multiplication bears its name, or that of the
activation behind it, and its weights are new ones. What stays is provenance. In order of trust: the name and the output
of the node itself, the constants it reads, the nodes behind it, whose results come from it, and the nodes that the
layers behind it are named after: a convolution whose weights were negated for a subtraction has none of the others.

A layer that is made of several nodes, such as attention, is often named after the last one alone. The products before
that are its own if their results go nowhere else, and nothing that could run them stands between it and other layers.
"""

from collections.abc import Iterable, Iterator, Sequence

from resnetrt.export.audit.layers import ExecutedLayer
from resnetrt.export.audit.source import SourceGraph

Matches = dict[str, ExecutedLayer]


def match_layers(source: SourceGraph, layers: Sequence[ExecutedLayer]) -> Matches:
    """The layer that runs each multiplying node, by its name; a node that no layer is known to run is left out.

    Of several layers that name a node, one whose operator multiplies is taken first, then the first that is work.
    """
    work = sorted((item for item in layers if item.kind == "compute"), key=lambda item: not item.multiplies)
    found: Matches = {}
    named = set()
    for layer in work:
        for name in _named(source, layer):
            found.setdefault(name, layer)
            named.add(id(layer))
    readers = _readers(source)
    renamed = [layer for layer in work if layer.multiplies and id(layer) not in named]
    candidates = {id(layer): _candidates(source, layer, readers) for layer in renamed}
    # those that can be only one node first: they leave fewer for the others
    for layer in sorted(renamed, key=lambda item: len(candidates[id(item)])):
        free = [name for name in candidates[id(layer)] if name not in found]
        if free:
            found[free[0]] = layer
    found |= _inside(source, layers, found)
    return found


def _inside(source: SourceGraph, layers: Sequence[ExecutedLayer], found: Matches) -> Matches:
    """The composite layers of nodes that no layer is `found` for."""
    owners: dict[str, list[ExecutedLayer]] = {}
    for layer in layers:
        for node in filter(None, map(source.node_of, layer.source)):
            owners.setdefault(node, []).append(layer)
    inside: Matches = {}
    for name in source.mac_nodes:
        ends = set() if name in found else source.first_behind(name, owners)
        behind = {id(layer): layer for end in ends for layer in owners.get(end, ()) if layer.kind == "compute"}
        if len(behind) == 1 and ends <= owners.keys():
            (owner,) = behind.values()
            if owner.composite and _only_passed_on(source, owner, layers, found):
                inside[name] = owner
    return inside


def _only_passed_on(source: SourceGraph, layer: ExecutedLayer, layers: Iterable[ExecutedLayer], found: Matches) -> bool:
    """Whether no layer that could run a product of its own stands between `layer` and those of known nodes."""
    by_name = {item.name: item for item in layers}
    known = {id(item) for item in found.values()}
    seen, waiting = set(), list(layer.inputs)
    while waiting:
        item = by_name.get(waiting.pop())
        if item is None or item.name in seen or id(item) in known or any(map(source.node_of, item.source)):
            continue
        if item.multiplies is not False:
            return False
        seen.add(item.name)
        waiting += item.inputs
    return True


def _named(source: SourceGraph, layer: ExecutedLayer) -> Iterator[str]:
    for label in layer.source:
        node = source.node_of(label)
        if node in source.mac_nodes:
            yield node


def _readers(source: SourceGraph) -> dict[str, list[str]]:
    """The multiplying nodes that read each constant, in execution order."""
    readers: dict[str, list[str]] = {}
    for node in source.mac_nodes.values():
        for constant in node.constants:
            readers.setdefault(constant, []).append(node.name)
    return readers


def _candidates(source: SourceGraph, layer: ExecutedLayer, readers: dict[str, list[str]]) -> Sequence[str]:
    """The nodes that a renamed `layer` may run, the likeliest first: by its constants, and by the nodes behind.

    A block that is called again reads the same constants; its calls are executed in order. An add behind a chain of
    blocks gets results from all of them; its own convolution is the last.
    """
    places = {name: place for place, name in enumerate(source.mac_nodes)}
    by_constants = [readers[name] for name in layer.constants if name in readers]
    nodes = filter(None, map(source.node_of, (*layer.source, *layer.readers)))
    behind = [sorted(reached, key=places.__getitem__, reverse=True) for reached in map(source.sources_of, nodes)]
    likely: list[str] = []
    for group in (*by_constants, *filter(None, behind)):
        likely = [name for name in likely if name in group] or likely or list(group)
    return likely
