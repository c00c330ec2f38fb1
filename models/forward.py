"""Run a network once on images; an error says in one line why it can't run, or why its outputs are not logits."""

import inspect

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnetrt.errors import UsageError


def forward_once(module: nn.Module, images: Tensor, what: str) -> Tensor:
    """The logits `(N, classes)` of a copy of `images` `(N, C, H, W)`.

    Raises `UsageError`, with a message that begins with `what`, if forward raises or the outputs are not logits.
    """
    shape = tuple(images.shape)
    try:
        with torch.no_grad():
            output = module(images.clone())
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{what}: forward on {shape} raised {reason}; {_advice(module, images, reason)}") from error
    return _require_logits(output, len(images), what, shape)


def _advice(module: nn.Module, images: Tensor, reason: str) -> str:
    try:
        inspect.signature(module.forward).bind(images)
    except TypeError:
        return "it must take one tensor of images; wrap it in a module that supplies the other inputs"
    except ValueError:  # a forward without a Python signature
        pass
    if "more than 1 value per channel when training" in reason:
        return f"{_batch_norms_over_the_batch(module)}; it must not in eval()"
    if any(kind in reason for kind in ("Half", "BFloat16", "Double")):
        return "it must compute in float32: remove casts to other types in forward; precision is chosen when compiling"
    return "set the factory's `preprocessing` where it needs images of another size or number of channels"


def _batch_norms_over_the_batch(module: nn.Module) -> str:
    norms = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    for name, layer in norms:
        if layer.training:
            return f"BatchNorm {name} is in training mode, so it normalises over the batch"
        if layer.running_mean is None:
            return f"BatchNorm {name} has no running statistics, so it normalises over the batch"
    return "a batch_norm in forward has training=True, so it normalises over the batch"


def _require_logits(output: object, count: int, what: str, shape: tuple[int, ...]) -> Tensor:
    expected = f"{what}: expected logits ({count}, classes) from {shape}"
    if not isinstance(output, Tensor):
        raise UsageError(f"{expected}, found {type(output).__name__}; return the logits only")
    if output.ndim != 2 or len(output) != count:
        raise UsageError(f"{expected}, found {tuple(output.shape)}; return the logits only")
    if output.dtype != torch.float32:
        kind = str(output.dtype).removeprefix("torch.")
        advice = (
            "compute in float32, precision is chosen when compiling"
            if output.is_floating_point()
            else "class numbers and masks are no logits: return what goes into argmax, topk or the comparison"
        )
        raise UsageError(f"{expected}, found {kind} {tuple(output.shape)}; {advice}")
    return output
