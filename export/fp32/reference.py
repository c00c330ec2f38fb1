"""The eager model's logits on the golden images: what every later stage is compared with.

A bundle can represent the model only if the logits of an image depend on that image alone. So eager runs three times:
twice in batches and once image by image, on copies of the input, because a network may change its input in place.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.fp32.first_difference import first_difference
from resnetrt.models.forward import forward_once
from resnetrt.parity import Parity, compare, failures, tolerance
from resnetrt.preprocess import FloatArray

_BATCH = 8


def reference_logits(module: nn.Module, images: Tensor, name: str) -> tuple[FloatArray, float]:
    """float32 logits `(N, classes)` of eager for `images` `(N >= 2, C, H, W)`, and their noise (`float64_distance`).

    Raises `UsageError` if eager does not run or gives no logits. Raises `CheckFailed` naming the cause if eager takes
    only one image, or if an image's logits differ the second time, or differ alone and in a batch.
    """
    forward_once(module, images[:1], name)
    try:
        forward_once(module, images[:_BATCH], name)
    except UsageError as error:
        raise CheckFailed(
            f"{name} takes one image at a time only: {str(error).removeprefix(f'{name}: ').partition('; ')[0]}; "
            "make it work for any batch: flatten(1) keeps it, view(1, -1) and fixed batch sizes do not"
        ) from error
    logits = eager_logits(module, images)
    if wrong := np.count_nonzero(~np.isfinite(logits)):
        raise CheckFailed(
            f"{name}: {wrong} of {logits.size} logits of eager are NaN or infinite; "
            "look at its weights and its BatchNorms' running variance"
        )
    parity = compare(logits, eager_logits(module, images))
    if _differ(parity):
        cause = first_difference(module, images[:_BATCH])
        raise CheckFailed(f"{name} gives other logits when eager runs again on the same images{_by(parity)}: {cause}")
    noise = float64_distance(module, images[:_BATCH], logits[:_BATCH])
    alone = eager_logits(module, images, batch=1)
    parity = compare(logits, alone, noise)
    if _differ(parity):
        worst = int(np.abs(logits - alone).max(1).argmax())
        start = worst // _BATCH * _BATCH
        cause = first_difference(module, images[start : start + _BATCH], worst - start)
        raise CheckFailed(f"{name} gives other logits for an image alone than in a batch{_by(parity)}: {cause}")
    return logits, noise


@torch.no_grad()
def float64_distance(module: nn.Module, images: Tensor, logits: FloatArray) -> float:
    """The largest difference of `logits` to those of the same network in float64; 0 where it can't run in it."""
    try:
        exact = copy.deepcopy(module).double()(images.double()).numpy()
    except Exception:  # a tensor made in forward as float32, or one that can't be copied
        return 0.0
    distance = float(np.abs(exact - logits).max())
    return distance if np.isfinite(distance) else 0.0


@torch.no_grad()
def eager_logits(module: nn.Module, images: Tensor, batch: int = _BATCH) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 logits `(N, classes)` of the eager module, in small batches; `images` stay as they are."""
    parts = [module(images[i : i + batch].clone()).float().numpy() for i in range(0, len(images), batch)]
    return np.ascontiguousarray(np.concatenate(parts))


def _differ(parity: Parity) -> bool:
    return bool(failures(parity, tolerance("eager", "fp32")))


def _by(parity: Parity) -> str:
    return f" (max abs difference {parity.max_abs:.1e}, SQNR {parity.sqnr_db:.1f} dB)"
