"""Write operators that torch translates to ONNX wrongly (seen with 2.13) as others that it translates right.

- An average pool's `divisor_override` is left out without a word. A network that divides by what it
  has seen, as a normalisation does, hides the wrong size almost entirely.
- `log_sigmoid` becomes Log(Sigmoid(x)), which is minus infinity below -103 and rounds away what is far from zero.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

_AXES = {torch.ops.aten.avg_pool2d.default: 2, torch.ops.aten.avg_pool3d.default: 3}
_DEFAULTS = ([], 0, False, True, None)  # stride, padding, ceil_mode, count_include_pad, divisor_override


def rewrite_untranslated(program: ExportedProgram) -> None:
    """Replace, in `program`, average pools with a divisor of their own, and `log_sigmoid`."""
    for node in list(program.graph.nodes):
        with program.graph.inserting_before(node):
            if node.target in _AXES and len(node.args) > 6 and node.args[6] is not None:
                _replace(program, node, _divided(program, node, _AXES[node.target]))
            elif node.target is torch.ops.aten.log_sigmoid.default:
                _replace(program, node, _log_sigmoid(program, node))
    program.graph_module.recompile()


def _divided(program: ExportedProgram, node: Node, axes: int) -> Node:
    """The sum over a divisor: the mean times the window's size over it.

    Every window of the plain pool has all its pixels: what ceil mode adds behind the padding becomes padding.
    """
    image, kernel, stride, padding, ceil, _, divisor = (*node.args, *_DEFAULTS[len(node.args) - 2 :])
    kernel = _each(kernel, axes)
    stride, padding = _each(stride or kernel, axes), _each(padding, axes)
    sizes = image.meta["val"].shape[-axes:]  # type: ignore[union-attr]
    behind = [_behind(*axis) if ceil else 0 for axis in zip(sizes, kernel, stride, padding, strict=True)]
    if any(behind):
        around = [amount for pad, more in zip(padding, behind, strict=True) for amount in (pad + more, pad)]
        image, padding = _call(program, torch.ops.aten.constant_pad_nd.default, image, around[::-1], 0.0), [0] * axes
    mean = _call(program, node.target, image, kernel, stride, padding, False, True)
    return _call(program, torch.ops.aten.mul.Tensor, mean, math.prod(kernel) / divisor)  # type: ignore[operator]


def _log_sigmoid(program: ExportedProgram, node: Node) -> Node:
    """-softplus(-x)."""
    negative = _call(program, torch.ops.aten.neg.default, node.args[0])
    return _call(program, torch.ops.aten.neg.default, _call(program, torch.ops.aten.softplus.default, negative))


def _call(program: ExportedProgram, operator: Any, *args: Any) -> Node:
    made = program.graph.call_function(operator, args)
    made.meta["val"] = operator(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return made


def _replace(program: ExportedProgram, old: Node, new: Node) -> None:
    new.meta = old.meta | {"val": new.meta["val"]}
    old.replace_all_uses_with(new)
    program.graph.erase_node(old)


def _each(values: Any, axes: int) -> list[int]:
    """One number an axis of one for all, or of one an axis."""
    listed = list(values) if isinstance(values, Sequence) else [values]
    return listed * axes if len(listed) == 1 else listed


def _behind(size: int, kernel: int, stride: int, padding: int) -> int:
    """How many pixels behind the padding the last window of ceil mode reaches; it may not begin there."""
    windows = -(-(size + 2 * padding - kernel) // stride) + 1
    if (windows - 1) * stride >= size + padding:
        windows -= 1
    return max(0, (windows - 1) * stride + kernel - size - 2 * padding)
