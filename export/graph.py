"""What a module's traced graph says about its BatchNorms: which of them follow a convolution that is theirs alone."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from resnetrt.errors import CheckFailed
from resnetrt.export.quiet import first_cause, quiet

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_PLAIN = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)  # the same in evaluation mode
_CONV_OPS = {torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default}
_PADDED_CONV_OPS = {torch.ops.aten.conv1d.padding, torch.ops.aten.conv2d.padding, torch.ops.aten.conv3d.padding}


@dataclass(frozen=True)
class FoldPair:
    """Dotted names of a convolution and of the BatchNorm that alone consumes its output."""

    conv: str
    batch_norm: str


@dataclass(frozen=True)
class KeptBatchNorm:
    """A BatchNorm that stays in the graph, and why."""

    batch_norm: str
    reason: str


def trace(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """Trace `module` with a symbolic batch axis; `example` is `(N >= 2, C, H, W)`.

    Raises `CheckFailed` with the first line of the cause when the module can't be traced.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with quiet():
            return torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise CheckFailed(
            f"tracing {type(module).__name__} with input {tuple(example.shape)} failed: {first_cause(error)}; "
            "forward must take one (N, C, H, W) tensor, work for any N, and not branch on values"
        ) from error


def find_pairs(program: ExportedProgram, module: nn.Module) -> tuple[list[FoldPair], list[KeptBatchNorm]]:
    """The BatchNorms of `module` that fold into a convolution, and those that do not, each with the reason."""
    names = dict(program.graph_signature.inputs_to_parameters) | dict(program.graph_signature.inputs_to_buffers)
    pairs, kept = [], []
    for node in program.graph.nodes:
        if node.op != "call_function" or "batch_norm" not in str(node.target):
            continue
        batch_norm = _owner(node.args[3], names, "running_mean")
        if batch_norm is None:
            depends = node.args[3] is None
            reason = "it has no running statistics, so it depends on the batch" if depends else "it is no module"
            kept.append(KeptBatchNorm(node.name, reason))
            continue
        conv, reason = _foldable_conv(node, names, module, batch_norm)
        if conv is None:
            kept.append(KeptBatchNorm(batch_norm, reason))
        else:
            pairs.append(FoldPair(conv, batch_norm))
    return pairs, kept


def _owner(node: object, names: dict[str, str], attribute: str) -> str | None:
    name = names.get(node.name, "") if isinstance(node, Node) else ""
    return name.removesuffix("." + attribute) if name.endswith("." + attribute) else None


def _foldable_conv(node: Node, names: dict[str, str], module: nn.Module, batch_norm: str) -> tuple[str | None, str]:
    """The convolution's dotted name, or None and the reason."""
    layer = module.get_submodule(batch_norm)
    if not isinstance(layer, BATCH_NORMS) or type(layer).forward not in _PLAIN:
        return None, f"it is a {type(layer).__name__}, not a plain BatchNorm"
    if not _calls(node, module, layer):
        return None, "its parameters are used directly, the module itself is not called"
    statistics = node.args[3]
    if not isinstance(statistics, Node) or len(statistics.users) != 1:
        return None, "it is used more than once"
    source = node.args[0]
    if not isinstance(source, Node) or source.target not in _CONV_OPS | _PADDED_CONV_OPS:
        return None, f"its input comes from {getattr(source, 'target', source)}, not from a convolution"
    if len(source.users) != 1:
        return None, f"the output of the convolution before it has {len(source.users)} users"
    weight = source.args[1]
    conv = _owner(weight, names, "weight")
    if conv is None or not isinstance(module.get_submodule(conv), CONVOLUTIONS):
        return None, "the weight of the convolution before it is computed, not a parameter of a Conv module"
    if not isinstance(weight, Node) or len(weight.users) != 1:
        return None, f"the convolution {conv} before it is used more than once"
    if not _calls(source, module, module.get_submodule(conv)):
        return None, f"the parameters of {conv} before it are used directly, the module itself is not called"
    return conv, ""


def _calls(node: Node, module: nn.Module, layer: nn.Module) -> bool:
    """Whether `node` comes from calling `layer`; a module can bear several names."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return bool(stack) and dict(module.named_modules(remove_duplicate=False)).get(stack[-1][0]) is layer
