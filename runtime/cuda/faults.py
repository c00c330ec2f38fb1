"""What a failed CUDA call means, in one sentence: a lost device, memory that ran out, or CUDA's own words."""

from resnetrt.errors import DeviceLost, EnvironmentFault

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
# "any further CUDA work will return the same error. To continue using CUDA, the process must be terminated and
# relaunched" (cuda.h, driver_types.h, with the same numbers), and memory that is broken: 214 ECC, 220 NVLink
_STICKY = {214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721}
_STICKY_WORDS = (
    "illegal memory access",
    "launch timed out",
    "device-side assert",
    "hardware stack error",
    "illegal instruction",
    "misaligned address",
    "not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
)


def fault(text: str, status: int | None = None) -> EnvironmentFault:
    """The error for a failed call: `DeviceLost` if its `status`, or its text where there is none, says so."""
    lost = any(words in text for words in _STICKY_WORDS) if status is None else status in _STICKY
    if lost:
        return DeviceLost(f"{text}; this process can't use the GPU any more: end it and start it again")
    return EnvironmentFault(text)


def out_of_memory(kind: str, size_bytes: int, free_bytes: int | None = None, total_bytes: int = 0) -> EnvironmentFault:
    """That memory of this kind, `device` or `pinned host`, ran out when `size_bytes` were asked for."""
    left = "" if free_bytes is None else f", found {_mib(free_bytes)} free of {_mib(total_bytes)}"
    return EnvironmentFault(
        f"CUDA: out of memory: expected {_mib(size_bytes)} of {kind} memory{left}; end what else uses it, or compile "
        "for smaller batches"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"
