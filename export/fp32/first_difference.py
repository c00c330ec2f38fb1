"""The first operation at which two runs of a network part, and what that says of the network.

The runs are recorded below autograd, operation by operation, with the module in which each was called. Operations that
only move data are left out: whether a reshape copies depends on strides, which differ between one image and several.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

# Rounding stays below -100 dB in one operation; a difference that makes logits miss the 80 dB of FP32 is far larger.
_SAME = 1e-4
_MOVES = {
    *("view", "_unsafe_view", "reshape", "clone", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze"),
    *("slice", "select", "as_strided", "alias", "detach", "_to_copy", "copy_", "lift_fresh_copy", "unbind", "split"),
    *("empty", "empty_like", "new_empty"),  # not yet written
}


@dataclass(frozen=True)
class _Call:
    """One operation: its overload, name without namespace, where it was called, a copy of its first output."""

    overload: Any
    where: str
    layer: nn.Module
    output: Tensor | None

    @property
    def name(self) -> str:
        return str(self.overload.overloadpacket.__name__)

    @property
    def at(self) -> str:
        return f"{self.name} in {self.where or 'the network itself'} ({type(self.layer).__name__})"


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self.stack = [module]
        self._names = {id(layer): name for name, layer in module.named_modules()}

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in _MOVES:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            kept = first.detach().clone() if isinstance(first, Tensor) else None
            self.calls.append(_Call(func, self._names.get(id(self.stack[-1]), ""), self.stack[-1], kept))
        return output


def first_difference(module: nn.Module, images: Tensor, index: int | None = None) -> str:
    """Why `module` gives a different result for image `index` alone than in the batch `images`, in words.

    With no `index`: why it does for the same batch again.
    """
    again = images if index is None else images[index : index + 1]
    one, two, sizes_differ = _record(module, images), _record(module, again), index is not None
    for here, there in zip(one, two, strict=False):
        if here.name != there.name:
            return _other_operations(here, there, sizes_differ)
        if not _agree(here.output, there.output, len(images), index or 0):
            return _blame(here, sizes_differ)
    if len(one) != len(two):
        longer = one if len(one) > len(two) else two
        return f"one of the runs calls {longer[min(len(one), len(two))].at}, the other ends before"
    return "no single operation differs; look for state that is kept between calls"


def _other_operations(here: _Call, there: _Call, sizes_differ: bool) -> str:
    if not sizes_differ:
        return f"it runs other operations the second time: first {here.at}, then {there.at}; it keeps state"
    return (
        f"the batch size decides what it computes: {here.at} for several images, {there.at} for one; "
        "compute the same for any batch in eval()"
    )


def _blame(call: _Call, sizes_differ: bool) -> str:
    if isinstance(call.layer, _BatchNorm) and "norm" in call.name:
        if call.layer.running_mean is None:
            return (
                f"BatchNorm {call.where} has no running statistics (track_running_stats=False), so it normalises over "
                "the batch; train it with them or use GroupNorm"
            )
        return (
            f"BatchNorm {call.where} ({type(call.layer).__name__}) is in training mode although eval() was called, so "
            "it normalises over the batch; look for an overridden train() or a train() call in forward"
        )
    if sizes_differ:
        return f"{call.at} mixes the images of a batch; it must work within one image (look at its axis)"
    if "nondeterministic_seeded" in (tag.name for tag in call.overload.tags):
        return f"{call.at} draws random numbers; switch dropout and noise off in eval()"
    return f"{call.at} differs first; it keeps state between calls or depends on it"


def _agree(first: Tensor | None, second: Tensor | None, count: int, index: int) -> bool:
    """Whether `second` stands in `first`, which is for `count` images, where image `index` does."""
    if first is None or second is None or not first.is_floating_point():
        return True
    return any(_close(part, second) for part in _parts(first, second.shape, count, index))


def _parts(whole: Tensor, shape: torch.Size, count: int, index: int) -> Iterator[Tensor]:
    """The parts of `whole` that may be image `index`: the batch is any axis, alone or merged with another one."""
    if whole.shape == shape:
        yield whole
    longer = (
        [axis for axis in range(whole.ndim) if whole.shape[axis] != shape[axis]] if whole.ndim == len(shape) else []
    )
    if len(longer) == 1 and whole.shape[longer[0]] == count * shape[longer[0]]:
        axis = longer[0]
        yield whole.narrow(axis, index * shape[axis], shape[axis])
        merged = (*shape[: axis + 1], count, *shape[axis + 1 :])
        yield whole.reshape(merged).select(axis + 1, index)


def _close(first: Tensor, second: Tensor) -> bool:
    reference = float(second.double().norm())
    return float((first.double() - second.double()).norm()) <= _SAME * max(reference, 1e-30)


@torch.no_grad()
def _record(module: nn.Module, images: Tensor) -> list[_Call]:
    recorder = _Recorder(module)
    with _entered_modules(recorder.stack), recorder:
        module(images.clone())
    return recorder.calls


@contextmanager
def _entered_modules(stack: list[nn.Module]) -> Iterator[None]:
    """Keep the module that is running last in `stack`."""

    def enter(layer: nn.Module, _args: object) -> None:
        stack.append(layer)

    def leave(_layer: nn.Module, _args: object, _output: object) -> None:
        stack.pop()

    handles = [
        hooks.register_module_forward_pre_hook(enter),
        hooks.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
