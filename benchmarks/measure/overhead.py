"""The runtime's overhead per inference: `Session.infer` beside the backend's own call, on a network of microseconds.

The overhead does not depend on the network: the runtime checks the input and names the outputs, and copies nothing. On
a small network the overhead can be told from noise. Caches are emptied before each call, because a large network leaves
them like that; with warm caches the same code takes a fraction of the time.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import numpy as np

from resnetrt.benchmarks.measure.peaks import write_matmul
from resnetrt.benchmarks.measure.products import open_session
from resnetrt.benchmarks.measure.timing import median_interval, order
from resnetrt.preprocess import FloatArray

_SHAPE = (1, 16, 1)  # one product of 16 x 16
_ROUNDS, _CALLS, _EMPTY_BYTES = 60, 20, 16 << 20  # of 15 rounds, half of the intervals reached beyond 20 us


class OverheadRow(TypedDict):
    """Microseconds of a call: the backend's own, a session's, and the difference."""

    backend: str
    threads: int
    bare_us: float
    session_us: float
    overhead_us: float
    overhead_ci_us: list[float]


def measure_overhead(backends: Iterable[str], threads: int) -> list[OverheadRow]:
    """Microseconds an inference for each backend whose own call is known: bare, through a session, and the difference.

    `overhead_ci_us` is the 95 % interval of the rounds' differences.
    """
    return [_measure(backend, threads) for backend in backends if backend in _BARE]


def _measure(backend: str, threads: int) -> OverheadRow:
    x = np.zeros(_SHAPE[:2], np.float32)
    with tempfile.TemporaryDirectory(prefix="resnetrt-overhead-") as folder:
        model = Path(folder) / "matmul.onnx"
        write_matmul(model, _SHAPE, "fp32")
        bare = _BARE[backend](model, threads, x)
        with open_session(model, backend, "fp32", threads) as session:
            rounds = _time({"bare": bare, "session": lambda: session.infer(x)})
    differences = [ours - theirs for ours, theirs in zip(rounds["session"], rounds["bare"], strict=True)]
    low, high, _ = median_interval(differences)
    return {
        "backend": backend,
        "threads": threads,
        "bare_us": median(rounds["bare"]),
        "session_us": median(rounds["session"]),
        "overhead_us": median(differences),
        "overhead_ci_us": [low, high],
    }


def _time(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Median microseconds of each call in each round, the order changed between rounds."""
    source, target = np.ones(_EMPTY_BYTES, np.uint8), np.zeros(_EMPTY_BYTES, np.uint8)
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(_ROUNDS):
        for name in order(list(calls), index):
            durations = []
            for _ in range(_CALLS):
                np.copyto(target, source)
                started = time.perf_counter_ns()
                calls[name]()
                durations.append((time.perf_counter_ns() - started) / 1e3)
            medians[name].append(median(durations))
    return medians


def _onnxruntime(model: Path, threads: int, x: FloatArray) -> Callable[[], object]:
    from resnetrt.runtime.backends.onnxruntime import create_native

    native = create_native(model, "cpu", threads)
    outputs, feed = [node.name for node in native.get_outputs()], {native.get_inputs()[0].name: x}
    return lambda: native.run(outputs, feed)


def _openvino(model: Path, threads: int, x: FloatArray) -> Callable[[], object]:
    import openvino as ov

    from resnetrt.runtime.backends.openvino import properties, shared_core

    request: Any = shared_core().compile_model(model, "CPU", properties("fp32", threads)).create_infer_request()

    def infer() -> object:
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))  # as the session does it; infer({0: x}) takes longer
        return request.infer()

    return infer


_BARE: dict[str, Callable[[Path, int, FloatArray], Callable[[], object]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
