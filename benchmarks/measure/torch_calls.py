"""The eager module as torch runs it on a device: in FP32 or FP16, eager or compiled, with its transfers."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetrt.preprocess import FloatArray
from resnetrt.runtime.cuda import chosen_device

if TYPE_CHECKING:
    import torch
    from torch import nn

TorchCall = Callable[[FloatArray], FloatArray]


def torch_gpu() -> str | None:
    """The GPU that is chosen, as torch calls it; None unless torch is here, is a build for CUDA, and sees that GPU.

    Torch and CUDA count alike in one process.
    """
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    chosen = chosen_device("torch")
    index = 0 if chosen is None else chosen.index
    return f"cuda:{index}" if index < torch.cuda.device_count() else None


class TorchOnDevice:
    """A copy of `module` on `device`, channels-last: `fp16`, or `fp32` without TF32.

    `compiled` takes torch.compile with CUDA graphs, for each batch size anew. TF32 is switched off for this process's
    convolutions and products, since an FP32 engine is compared with it.
    """

    def __init__(self, module: "nn.Module", device: str, precision: str, compiled: bool = False) -> None:
        import torch

        self._torch, self._device, self.precision = torch, device, precision
        self._dtype = torch.float16 if precision == "fp16" else torch.float32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        moved: Any = copy.deepcopy(module).to(device=device, dtype=self._dtype)
        moved = moved.to(memory_format=torch.channels_last)
        if compiled:
            torch._dynamo.reset()  # after eight networks it would fall back to eager
            moved = torch.compile(moved, mode="reduce-overhead", dynamic=False)
        self._module = moved

    def __call__(self, images: FloatArray) -> FloatArray:
        """Logits of float32 `(N, C, H, W)` images, from the host and back to it."""
        with self._torch.inference_mode():
            logits: FloatArray = self._module(self.put(images)).float().cpu().numpy()
        return logits

    def put(self, images: FloatArray) -> "torch.Tensor":
        """The images on the device, as the module takes them."""
        there = self._torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        return there.to(self._dtype).contiguous(memory_format=self._torch.channels_last)

    def stay(self, images: FloatArray) -> Callable[[], None]:
        """A call without transfers: the images lie on the device already, and the logits stay there."""
        there = self.put(images)

        def call() -> None:
            with self._torch.inference_mode():
                self._module(there)
            if self._device.startswith("cuda"):
                self._torch.cuda.synchronize(self._device)

        return call
