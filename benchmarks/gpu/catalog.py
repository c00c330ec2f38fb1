"""Every check, cheapest and most telling first.

The order serves both kinds of machines: what needs a library that is not here is skipped at once. With full TensorRT
its engines come right after the first copies; without it, as on an H100 with nothing but RTX's wheel, the runner does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from resnetrt.benchmarks.gpu.bundles import TRAINED
from resnetrt.errors import UsageError

_ROOM = "resnetrt.benchmarks.gpu"
OPEN_KERNELS = f"{_ROOM}.kernels:open_kernels"
_PRECISIONS = ("fp16", "int8", "fp32")
_DEPTHS = ("resnet50", "resnet18", "resnet152", "resnet34", "resnet101")
_BUILD_S = 150.0
# title, function, further needs; those that may lose the context or hang come last
_RUNNER = (
    ("32 batch sizes", "runner:check_batches", ()),
    ("graph against enqueue", "runner:check_graph_cost", ()),
    ("leaks", "runner:check_leaks", ()),
    ("four threads capture", "runner:check_capture_threads", ()),
    ("memory is freed during a capture", "runner:check_free_in_capture", ()),
    ("DLPack, an input that is late", "in_place:check_late_input", ()),
    ("DLPack, unaligned inputs", "in_place:check_unaligned_input", ()),
    ("DLPack, outputs that are held", "in_place:check_held_outputs", ()),
    ("DLPack, a reader that is late", "in_place:check_late_reader", ()),
    ("DLPack, torch's streams", "in_place:check_torch_order", ("torch-cuda",)),
    ("batcher with two instances", "runner:check_batcher", ()),
    ("out of memory", "faults:check_out_of_memory", ()),
    ("fork", "faults:check_fork", ()),
    ("sticky error", "faults:check_sticky_error", ()),
)


@dataclass(frozen=True)
class GpuCheck:
    """A check: the `function`, as `module:name`, which gets `arguments` and returns its measurements.

    `given` is another function with its arguments, whose result comes first. `network` names the one whose bundle is
    needed; its path then comes next. `needs` are requirements of `needs.PROBES`, asked before anything is prepared.
    """

    name: str
    function: str
    arguments: tuple[Any, ...] = ()
    given: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    network: str | None = None
    limit_s: float = 60.0


def catalog() -> tuple[GpuCheck, ...]:
    """All checks, in the order in which they run."""
    return (
        *_memory("cuda-bindings"),
        *_parity("tensorrt", None, "tensorrt"),
        *_kernels(),
        *_parity("tensorrt_rtx", None, "tensorrt_rtx"),
        *_parity("onnxruntime", "cuda", "ort-cuda"),
        *_latency(_DEPTHS[:1]),
        *_baselines(_DEPTHS[0]),
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
    needs, given = ("gpu", implementation), ("resnetrt.runtime.cuda:open_cuda", implementation)
    for title, function in (("copies", "check_copies"), ("graph replays", "check_graph")):
        name = f"{implementation}: {title}"
        yield GpuCheck(name, f"{_ROOM}.memory:{function}", given=given, needs=needs, limit_s=30)
    name = f"{implementation}: torch tensors in place"
    yield GpuCheck(name, f"{_ROOM}.memory:check_torch", given=given, needs=(*needs, "torch-cuda"))


def _kernels() -> Iterator[GpuCheck]:
    """The runner over kernels: no TensorRT is needed."""
    for title, function, more in _RUNNER:
        name, needs = f"runner: {title}", ("gpu", "cuda-bindings", "nvrtc", *more)
        given = () if function.endswith("check_torch_order") else (OPEN_KERNELS,)
        yield GpuCheck(name, f"{_ROOM}.{function}", given=given, needs=needs)
    needs = ("gpu", "tensorrt_lean")
    yield GpuCheck(
        "tensorrt_lean: foreign plans", f"{_ROOM}.faults:check_foreign_plans", ("tensorrt_lean",), needs=needs
    )


def _parity(backend: str, target: str | None, need: str) -> Iterator[GpuCheck]:
    # ONNX Runtime's CUDA provider has no integer convolution: INT8 is refused there
    for precision in ("fp32", "fp16") if target == "cuda" else _PRECISIONS:
        name = f"{backend}{' ' + target if target else ''}: {precision} parity"
        arguments, needs = (backend, target, precision), ("gpu", need)
        yield GpuCheck(name, f"{_ROOM}.engines:check_parity", arguments, needs=needs, network=TRAINED, limit_s=_BUILD_S)


def _baselines(network: str) -> Iterator[GpuCheck]:
    for precision in ("fp16", "fp32"):
        name = f"onnxruntime cuda: {network} {precision} latency"
        yield GpuCheck(
            name,
            f"{_ROOM}.baselines:check_onnxruntime",
            (precision,),
            needs=("gpu", "ort-cuda"),
            network=network,
            limit_s=_BUILD_S,
        )
    for precision, compiled in (("fp16", False), ("fp32", False), ("fp16", True)):
        name = f"torch: {network} {precision} {'compiled' if compiled else 'eager'} latency"
        arguments, needs = (precision, compiled), ("gpu", "torch-cuda")
        yield GpuCheck(
            name, f"{_ROOM}.baselines:check_torch", arguments, needs=needs, network=network, limit_s=_BUILD_S
        )


def _latency(networks: Sequence[str]) -> Iterator[GpuCheck]:
    for network in networks:
        for backend in ("tensorrt", "tensorrt_rtx"):
            name, needs = f"{backend}: {network} fp16 latency", ("gpu", backend)
            yield GpuCheck(
                name, f"{_ROOM}.engines:check_latency", (backend,), needs=needs, network=network, limit_s=_BUILD_S
            )
