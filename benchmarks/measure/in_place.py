"""Calls of an engine on a GPU without transfers: its images lie on the device, and its outputs stay there."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt

from resnetrt.runtime.backends.tensorrt import TensorRtSession


def place(session: TensorRtSession, images: npt.NDArray[Any]) -> Callable[[], dict[str, Any]]:
    """Copy a batch to the device; the call runs it there, and gives its outputs in device memory when it is done.

    The outputs are the same tensors each time, so that no call waits for who may read earlier ones.
    """
    tensor = session.upload(images)
    return partial(session.infer_dlpack, tensor, outputs=session.infer_dlpack(tensor))
