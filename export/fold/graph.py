"""What a module's traced graph says about its BatchNorms: which of them follow a convolution that is theirs alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from resnetrt.errors import CheckFailed
from resnetrt.export.fold.constants import constants, image_of, module_of, target_of
from resnetrt.export.fold.untranslated import rewrite_untranslated
from resnetrt.export.trace.quiet import first_cause, quiet

_CONVOLUTIONS = {
    *(torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default),
    *(torch.ops.aten.conv1d.padding, torch.ops.aten.conv2d.padding, torch.ops.aten.conv3d.padding),
}


@dataclass(frozen=True)
class FoldPair:
    """Dotted names of a convolution and of the BatchNorm that alone consumes its output, and their calls."""

    conv: str
    batch_norm: str
    conv_node: Node
    norm_node: Node


@dataclass(frozen=True)
class KeptBatchNorm:
    """A BatchNorm that stays in the graph, and why."""

    batch_norm: str
    reason: str


def trace(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """Trace `module` with a symbolic batch axis; `example` is `(N >= 2, C, H, W)`.

    Raises `CheckFailed` with the first line of the cause when the module can't be traced.
    """
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]  # a wrapper has the image in *args
    shapes[example] = {0: torch.export.Dim("batch", min=1, max=4096)}
    try:
        with quiet():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    except Exception as error:
        raise CheckFailed(
            f"tracing {type(module).__name__} with input {tuple(example.shape)} failed: {first_cause(error)}; "
            "forward must take one (N, C, H, W) tensor, work for any N, and not branch on values"
        ) from error
    _leave_input_alone(program)
    rewrite_untranslated(program)
    return program


def _leave_input_alone(program: ExportedProgram) -> None:
    """Let the program change a copy of the image, which would otherwise become an output of its own."""
    image = image_of(program)
    with program.graph.inserting_after(image):
        copied = program.graph.call_function(torch.ops.aten.clone.default, (image,))
    copied.meta["val"] = image.meta["val"]
    image.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    program.graph_module.recompile()


def find_pairs(program: ExportedProgram) -> tuple[list[FoldPair], list[KeptBatchNorm]]:
    """The BatchNorms of `program` that fold into a convolution, and those that do not, each with the reason.

    Calls are looked at, not modules: a subclass that adds an activation and `functional.batch_norm` are the same call.
    """
    fixed = constants(program)
    pairs, kept = [], []
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.batch_norm.default:
            continue
        statistics = node.args[3]
        if statistics is None:
            kept.append(KeptBatchNorm(node.name, "it has no running statistics, so it depends on the batch"))
            continue
        name = target_of(program, statistics).rpartition(".")[0] if statistics in fixed else module_of(node)
        reason = _obstacle(node, fixed)
        if reason:
            kept.append(KeptBatchNorm(name, reason))
        else:
            conv = node.args[0]
            weight_owner = target_of(program, conv.args[1]).rpartition(".")[0]
            pairs.append(FoldPair(weight_owner or module_of(conv), name, conv, node))
    return pairs, kept


def _obstacle(norm: Node, fixed: Mapping[Node, object]) -> str:
    """Why a BatchNorm with running statistics can't be folded; empty if it can."""
    if norm.args[5]:
        return "it is in training mode, so it depends on the batch"
    if not all(value is None or value in fixed for value in norm.args[1:5]):
        return "its parameters are computed from the image"
    statistics, source = norm.args[3], norm.args[0]
    if not isinstance(statistics, Node) or len(statistics.users) != 1:
        return "it is used more than once"
    if not isinstance(source, Node) or source.target not in _CONVOLUTIONS:
        return f"its input comes from {getattr(source, 'target', source)}, not from a convolution"
    if len(source.users) != 1:
        return f"the output of the convolution before it has {len(source.users)} users"
    weight = source.args[1]
    if not isinstance(weight, Node) or weight not in fixed:
        return "the weight of the convolution before it is computed from the image"
    if len(weight.users) != 1:
        return f"the convolution {module_of(source)} before it is used more than once"
    bias = source.args[2] if len(source.args) > 2 else None
    return "" if bias is None or bias in fixed else "the bias of the convolution before it is computed from the image"
