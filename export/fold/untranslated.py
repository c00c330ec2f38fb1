"""Write operators that torch translates to ONNX wrongly (seen with 2.13) as others that it translates right.

- An average pool's `divisor_override` is left out without a word. A network that divides by what it has seen, as a
  normalisation does, hides the wrong size almost entirely.
- `log_sigmoid` becomes Log(Sigmoid(x)), which is minus infinity below -103 and rounds away what is far from zero.
- A nearest resize by a fraction rounds positions down: from 28 pixels to 4, position 1 became pixel 6.
- Attention without an axis for heads is refused.
- InstanceNorm with running statistics, which is BatchNorm, becomes one with statistics for each image of the batch, of
  which OpenVINO 2026.4 computes another number (9 % of the tensor).
- An adaptive average pool to one pixel of a tensor in channels-last order, as behind a LayerNorm over channels, becomes
  a mean and `as_strided`: Range and Gather over the batch, of which OpenVINO 2026.4 gathers other elements.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch._prims_common import suggest_memory_format
from torch.export import ExportedProgram
from torch.fx import Node

from resnetrt.export.fold.constants import add_parameter
from resnetrt.export.trace.ceil_pools import overhang

_AXES = {torch.ops.aten.avg_pool2d.default: 2, torch.ops.aten.avg_pool3d.default: 3}
_NEAREST = {torch.ops.aten.upsample_nearest2d.vec, torch.ops.aten.upsample_nearest2d.default}


def rewrite_untranslated(program: ExportedProgram) -> None:
    """Replace, in place, what the first lines of this module name."""
    for node in list(program.graph.nodes):
        with program.graph.inserting_before(node):
            if node.target in _AXES and len(node.args) > 6 and node.args[6] is not None:
                _replace(program, node, _divided(program, node, _AXES[node.target]))
            elif node.target is torch.ops.aten.log_sigmoid.default:
                _replace(program, node, _log_sigmoid(program, node))
            elif node.target in _NEAREST and _is_fractional(node):
                _replace(program, node, _picked(program, node))
            elif node.target is torch.ops.aten.scaled_dot_product_attention.default and _rank(node.args[0]) == 3:
                _replace(program, node, _one_head(program, node))
            elif node.target is torch.ops.aten.adaptive_avg_pool2d.default and _is_strided_mean(node):
                _replace(program, node, _call(program, torch.ops.aten.mean.dim, node.args[0], [-2, -1], True))
            elif node.target is torch.ops.aten.instance_norm.default and not node.args[5]:  # use_input_stats
                node.target = torch.ops.aten.batch_norm.default  # of the same arguments in the same order
    program.graph_module.recompile()


def _divided(program: ExportedProgram, node: Node, axes: int) -> Node:
    """The sum over a divisor: the mean times the window's size over it.

    Every window of the plain pool has all its pixels: what ceil mode adds behind the padding becomes padding.
    """
    image, kernel, stride, padding, ceil, _, divisor = cast(tuple[Any, ...], node.args)
    kernel = _each(kernel, axes)
    stride, padding = _each(stride or kernel, axes), _each(padding, axes)
    pads = np.array([padding, padding])
    more = overhang({"kernel_shape": kernel, "strides": stride}, pads, image.meta["val"].shape[-axes:])
    if ceil and more.any():
        around = np.array([pads[0], pads[1] + more]).T[::-1].flatten().tolist()  # of the last axis first
        image, padding = _call(program, torch.ops.aten.constant_pad_nd.default, image, around, 0.0), [0] * axes
    mean = _call(program, node.target, image, kernel, stride, padding, False, True)
    return _call(program, torch.ops.aten.mul.Tensor, mean, math.prod(kernel) / divisor)


def _log_sigmoid(program: ExportedProgram, node: Node) -> Node:
    """-softplus(-x)."""
    negative = _call(program, torch.ops.aten.neg.default, node.args[0])
    return _call(program, torch.ops.aten.neg.default, _call(program, torch.ops.aten.softplus.default, negative))


def _is_strided_mean(node: Node) -> bool:
    """Whether a pool to one pixel is followed by a change of order, which moves nothing where there is one pixel."""
    image = cast(Node, node.args[0]).meta["val"]
    one = all(size == 1 for size in node.meta["val"].shape[-2:])
    return one and image.dim() == 4 and suggest_memory_format(image) is torch.channels_last


def _is_fractional(node: Node) -> bool:
    """Whether a resize is anything but an enlargement by whole factors; the sizes of one image are known."""
    before, after = node.args[0].meta["val"].shape[2:], node.meta["val"].shape[2:]  # type: ignore[union-attr]
    return any(large % small for large, small in zip(after, before, strict=True))


def _picked(program: ExportedProgram, node: Node) -> Node:
    """The rows and columns that eager picks, found by letting eager resize their indices."""
    image: Any = node.args[0]
    height, width = image.meta["val"].shape[2:]
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(1, 1, height, width)
    columns = torch.arange(width, dtype=torch.float32).expand(1, 1, height, width)
    for axis, numbers in ((2, rows), (3, columns)):
        taken = node.target(numbers, *node.args[1:])[0, 0].amax(3 - axis).long()  # type: ignore[operator]
        places = add_parameter(program, f"{node.name}.{'rows' if axis == 2 else 'columns'}", taken)
        image = _call(program, torch.ops.aten.index_select.default, image, axis, places)
    return cast(Node, image)


def _one_head(program: ExportedProgram, node: Node) -> Node:
    """Query, key, value and mask with an axis for one head."""
    images = [
        _call(program, torch.ops.aten.unsqueeze.default, arg, 1) if _rank(arg) == 3 else arg for arg in node.args[:4]
    ]
    attended = _call(program, node.target, *images, *node.args[4:], **node.kwargs)
    return _call(program, torch.ops.aten.squeeze.dim, attended, 1)


def _rank(value: Any) -> int | None:
    return value.meta["val"].ndim if isinstance(value, Node) else None


def _call(program: ExportedProgram, operator: Any, *args: Any, **options: Any) -> Node:
    """A new node, without a value of its own: to compute one might fix the batch size."""
    made: Node = program.graph.call_function(operator, args, options)
    return made


def _replace(program: ExportedProgram, old: Node, new: Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    program.graph.erase_node(old)


def _each(values: Any, axes: int) -> list[int]:
    """One number per axis, from one number for all axes or one for each."""
    listed = list(values) if isinstance(values, Sequence) else [values]
    return listed * axes if len(listed) == 1 else listed
