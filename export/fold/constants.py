"""What a traced program computes from no image: its parameters and buffers, and the weights made from them in forward.

Weight standardization, weight and spectral norm and every other parametrization are such computations. They are done
here once, so that the file holds plain weights, which later stages fold, equalize and quantize.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node
from torch.fx.node import map_arg


def constants(program: ExportedProgram) -> dict[Node, Tensor]:
    """The placeholders of `program` that are parameters, buffers or constants, and their values."""
    values = {**program.constants, **program.state_dict}
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    return {
        node: values[targets[node.name]] for node in program.graph.find_nodes(op="placeholder") if node.name in targets
    }


def image_of(program: ExportedProgram) -> Node:
    """The placeholder of the one input."""
    names = program.graph_signature.user_inputs
    image: Node = next(node for node in program.graph.find_nodes(op="placeholder") if node.name in names)
    return image


def target_of(program: ExportedProgram, node: Node) -> str:
    """Dotted name of the parameter or buffer that a placeholder is."""
    return next(str(spec.target) for spec in program.graph_signature.input_specs if spec.arg.name == node.name)


def module_of(node: Node) -> str:
    """Dotted name of the module in which a node was called."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


@torch.no_grad()
def settle_constants(program: ExportedProgram) -> None:
    """Replace, in place, every tensor that `program` computes from parameters alone by a parameter with its values.

    Nothing is done if the program changes a parameter or buffer: then the value depends on when it is read.
    """
    known: dict[Node, Any] = dict(constants(program))
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if _changes(node) & known.keys():
            return
        if _is_pure(node) and all(source in known for source in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    names = {node: _name(node, known) for node in known if _is_result(node, known)}
    for node in names:
        node.args, node.kwargs = (), {}  # a placeholder for its value until its inputs, with their names, are removed
    for node in reversed(known):
        if node.op == "call_function" and not node.users:
            program.graph.erase_node(node)
    drop_unused(program)
    for node, name in names.items():
        node.replace_all_uses_with(add_parameter(program, name, known[node]))
        program.graph.erase_node(node)
    program.graph_module.recompile()


def _is_result(node: Node, known: Mapping[Node, Any]) -> bool:
    """Whether `node` is a computed floating-point tensor that a node depending on the image reads."""
    value = known[node]
    numbers = isinstance(value, Tensor) and value.is_floating_point()
    return node.op == "call_function" and numbers and any(user not in known for user in node.users)


def _name(node: Node, known: Mapping[Node, Any]) -> str:
    """What the parameter for `node` is called: the weight of the one layer that takes it as such, or as the node is."""
    readers = [user for user in node.users if user not in known]
    is_layer = len(readers) == 1 and any(kind in str(readers[0].target) for kind in ("conv", "linear"))
    is_weight = is_layer and len(readers[0].args) > 1 and readers[0].args[1] is node
    where = module_of(readers[0]) if is_weight else module_of(node)
    return f"{where}.{'weight' if is_weight else node.name}".lstrip(".")


def _is_pure(node: Node) -> bool:
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _changes(node: Node) -> set[Node]:
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        return set(node.all_input_nodes)
    return set()


def add_parameter(program: ExportedProgram, name: str, value: Tensor) -> Node:
    """A new parameter of `program`, called `name` or with a number behind it, as a placeholder before the image."""
    specs = program.graph_signature.input_specs
    image = image_of(program)
    place = next(index for index, spec in enumerate(specs) if spec.arg.name == image.name)
    name = _free(name, {**program.constants, **program.state_dict})
    with program.graph.inserting_before(image):
        node: Node = program.graph.placeholder("p_" + name.replace(".", "_"))
    node.target = node.name
    node.meta["val"] = image.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
    specs.insert(place, InputSpec(InputKind.PARAMETER, TensorArgument(node.name), name))
    program.state_dict[name] = nn.Parameter(value.detach().clone(), requires_grad=False)
    return node


def drop_unused(program: ExportedProgram) -> None:
    """Remove the parameters, buffers and constants that nothing reads."""
    specs = program.graph_signature.input_specs
    for node in constants(program):
        if not node.users:
            spec = next(spec for spec in specs if spec.arg.name == node.name)
            specs.remove(spec)
            program.graph.erase_node(node)
            if all(other.target != spec.target for other in specs):
                program.state_dict.pop(str(spec.target), None)


def _free(name: str, taken: Mapping[str, object]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
