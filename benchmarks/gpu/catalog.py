"""Every check, cheapest and most telling first.

The order serves both kinds of machines: what needs a library that is not here is skipped at once. With full TensorRT
its engines come right after the first copies; without it, as on an H100 with nothing but RTX's wheel, the runner does.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from resnetrt.benchmarks.gpu.bundles import TRAINED
from resnetrt.benchmarks.gpu.outcome import GpuCheck
from resnetrt.errors import UsageError

_ROOM = "resnetrt.benchmarks.gpu"
_PRECISIONS = ("fp16", "int8", "fp32")
_DEPTHS = ("resnet50", "resnet18", "resnet152", "resnet34", "resnet101")
_BUILD_S = 150.0


def catalog() -> tuple[GpuCheck, ...]:
    """All checks, in the order in which they run."""
    return (
        *_memory("cuda-bindings"),
        *_parity("tensorrt", None, "tensorrt"),
        *_parity("tensorrt_rtx", None, "tensorrt_rtx"),
        *_parity("onnxruntime", "cuda", "ort-cuda"),
        *_latency(_DEPTHS[:1]),
        *_memory("pycuda"),
        *_parity("onnxruntime", "trt-ep", "ort-tensorrt"),
        *_latency(_DEPTHS[1:]),
    )


def choose(checks: Sequence[GpuCheck], patterns: Sequence[str]) -> tuple[GpuCheck, ...]:
    """The checks whose name contains one of `patterns`, or matches it as a file name would; all without patterns.

    Raises `UsageError` for a pattern that no check has.
    """
    for pattern in patterns:
        if not any(_matches(check, pattern) for check in checks):
            raise UsageError.unknown("check", pattern, [check.name for check in checks])
    return tuple(check for check in checks if not patterns or any(_matches(check, each) for each in patterns))


def _matches(check: GpuCheck, pattern: str) -> bool:
    return pattern in check.name or fnmatchcase(check.name, pattern)


def _memory(implementation: str) -> Iterator[GpuCheck]:
    needs = ("gpu", implementation)
    for title, function in (("copies", "check_copies"), ("graph replays", "check_graph")):
        name = f"{implementation}: {title}"
        yield GpuCheck(name, f"{_ROOM}.memory:{function}", given=implementation, needs=needs, limit_s=30)
    name = f"{implementation}: torch tensors in place"
    yield GpuCheck(name, f"{_ROOM}.memory:check_torch", given=implementation, needs=(*needs, "torch-cuda"))


def _parity(backend: str, target: str | None, need: str) -> Iterator[GpuCheck]:
    for precision in _PRECISIONS:
        name = f"{backend}{' ' + target if target else ''}: {precision} parity"
        arguments, needs = (backend, target, precision), ("gpu", need)
        yield GpuCheck(name, f"{_ROOM}.engines:check_parity", arguments, needs=needs, network=TRAINED, limit_s=_BUILD_S)


def _latency(networks: Sequence[str]) -> Iterator[GpuCheck]:
    for network in networks:
        for backend in ("tensorrt", "tensorrt_rtx"):
            name, needs = f"{backend}: {network} fp16 latency", ("gpu", backend)
            yield GpuCheck(
                name, f"{_ROOM}.engines:check_latency", (backend,), needs=needs, network=network, limit_s=_BUILD_S
            )
