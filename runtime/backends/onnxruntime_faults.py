"""What an error of ONNX Runtime on a GPU means: it raises exceptions of one kind, whose texts tell more."""

import re
from contextlib import suppress

from resnetrt.errors import BackendMissing, DeviceLost, EnvironmentFault, UsageError
from resnetrt.runtime.cuda import open_cuda
from resnetrt.runtime.cuda.faults import fault
from resnetrt.settings import read_settings

# As `cuda_call.cc` writes it: "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=...". What
# cuDNN, cuBLAS and TensorRT report instead does not name the reason.
_CUDA_FAILURE = re.compile(r"CUDA failure (\d+): ([^;]*[^;\s])")
_LONGEST = 400


def gpu_fault(error: Exception, what: str, device: int) -> EnvironmentFault:
    """The error to raise instead of ONNX Runtime's: `DeviceLost` if the GPU of that number is.

    `what` begins the message.
    """
    text = " ".join(str(error).split())
    told = _CUDA_FAILURE.search(text)
    if told is not None:
        return fault(f"{what}: ONNX Runtime: {told[0]}", int(told[1]))
    failure = fault(f"{what}: ONNX Runtime: {text[:_LONGEST]}")
    if not isinstance(failure, DeviceLost):
        try:
            with suppress(BackendMissing, UsageError):  # without a package to ask by, nobody knows more
                open_cuda(read_settings().cuda, device).check()
        except DeviceLost as lost:
            return DeviceLost(f"{what}: {lost}")
        except EnvironmentFault:
            pass
    return failure
