"""Which implementation of the protocol is used."""

import importlib
from typing import cast

from resnetrt.errors import BackendMissing, UsageError
from resnetrt.parts import PARTS
from resnetrt.runtime.cuda.device import find_devices
from resnetrt.runtime.cuda.protocol import Cuda

# in the order of preference; each module has a function `open_device` that takes the device's number
IMPLEMENTATIONS = {
    "cuda-bindings": "resnetrt.runtime.cuda.cuda_bindings",
    "pycuda": "resnetrt.runtime.cuda.pycuda",
}


def open_cuda(name: str | None = None, device: int = 0) -> Cuda:
    """The implementation `name`, or the first that is installed.

    Raises `BackendMissing` without a device or package, `UsageError` for an unknown name.
    """
    if name is not None and name not in IMPLEMENTATIONS:
        raise UsageError.unknown("CUDA package", name, IMPLEMENTATIONS)
    devices, reason = find_devices()
    if device >= len(devices):
        raise BackendMissing(f"CUDA: expected a device {device}, found {len(devices)} ({reason or 'too few'})")
    missing = []
    for candidate in [name] if name else IMPLEMENTATIONS:
        module = importlib.import_module(IMPLEMENTATIONS[candidate])
        try:
            return cast(Cuda, module.open_device(device))
        except ImportError as error:
            missing.append(f"{candidate} ({error})")
    install = next(part.install for part in PARTS if part.name == (name or "cuda-bindings"))
    raise BackendMissing(f"CUDA: none of these imports: {'; '.join(missing)}; run: {install}")
