"""Which executed layer does the work of which node of the variant.

Backends rename what they rewrite: a convolution that absorbed a multiplication may have the multiplication's name, or
that of the activation after it, and new weights. The evidence, in order of trust: the name and the output of the node
itself; the constants that it reads; the nodes after it, whose inputs come from it; and the nodes that the layers after
it are named after, which is all that is left if, for example, weights were negated for a subtraction.

A layer made of several nodes, such as attention, is often named after the last node only. The products before that node
belong to the layer if their results go nowhere else, and if no layer that could run them lies between it and other
layers.
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
    matches: Matches = {}
    named = set()
    for layer in work:
        for name in _named(source, layer):
            matches.setdefault(name, layer)
            named.add(id(layer))
    readers = _readers(source)
    renamed = [layer for layer in work if layer.multiplies and id(layer) not in named]
    candidates = {id(layer): _candidates(source, layer, readers) for layer in renamed}
    # layers with a single possible node first: they leave fewer for the others
    for layer in sorted(renamed, key=lambda item: len(candidates[id(item)])):
        free = [name for name in candidates[id(layer)] if name not in matches]
        if free:
            matches[free[0]] = layer
    matches |= _inside(source, layers, matches)
    return matches


def _inside(source: SourceGraph, layers: Sequence[ExecutedLayer], matches: Matches) -> Matches:
    """The composite layers of nodes that `matches` has no layer for."""
    owners: dict[str, list[ExecutedLayer]] = {}
    for layer in layers:
        for node in filter(None, map(source.node_of, layer.source)):
            owners.setdefault(node, []).append(layer)
    inside: Matches = {}
    for name in source.mac_nodes:
        ends = set() if name in matches else source.first_behind(name, owners)
        behind = {id(layer): layer for end in ends for layer in owners.get(end, ()) if layer.kind == "compute"}
        if len(behind) == 1 and ends <= owners.keys():
            (owner,) = behind.values()
            if owner.composite and _only_passed_on(source, owner, layers, matches):
                inside[name] = owner
    return inside


def _only_passed_on(
    source: SourceGraph, layer: ExecutedLayer, layers: Iterable[ExecutedLayer], matches: Matches
) -> bool:
    """Whether no layer that could run a product of its own lies between `layer` and the layers of known nodes."""
    by_name = {item.name: item for item in layers}
    known = {id(item) for item in matches.values()}
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
