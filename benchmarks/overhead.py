"""What the runtime adds to an inference: `Session.infer` beside the backend's own call, on a network of microseconds.

The runtime's part does not depend on the network: it checks the input and names the outputs, and copies nothing. On a
small network it can be told from noise.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from resnetrt.benchmarks.peaks import open_session, write_matmul
from resnetrt.benchmarks.timing import Schedule, measure, median_interval
from resnetrt.preprocess import FloatArray

_SHAPE = (1, 16, 1)  # one product of 16 x 16
_SCHEDULE = Schedule(rounds=15, min_block_s=0.01, settle_s=0.005, warm_up_s=0.05)


def measure_overhead(backends: Iterable[str], threads: int) -> list[dict[str, Any]]:
    """Microseconds an inference for each backend whose own call is known: bare, through a session, and the difference.

    `overhead_ci_us` is the 95 % interval of the rounds' differences.
    """
    return [_measure(backend, threads) for backend in backends if backend in _BARE]


def _measure(backend: str, threads: int) -> dict[str, Any]:
    x = np.zeros(_SHAPE[:2], np.float32)
    with tempfile.TemporaryDirectory(prefix="resnetrt-overhead-") as folder:
        model = Path(folder) / "matmul.onnx"
        write_matmul(model, _SHAPE, "fp32")
        bare = _BARE[backend](model, threads, x)
        with open_session(model, backend, "fp32", threads) as session:
            timings = measure({"bare": bare, "session": lambda: session.infer(x)}, _SCHEDULE)
    pairs = zip(timings["session"].round_medians_ms, timings["bare"].round_medians_ms, strict=True)
    differences = [1e3 * (ours - theirs) for ours, theirs in pairs]
    low, high, _ = median_interval(differences)
    names = {"backend": backend, "threads": threads}
    times = {f"{name}_us": 1e3 * timing.median_ms for name, timing in timings.items()}
    return names | times | {"overhead_us": median(differences), "overhead_ci_us": [low, high]}


def _onnxruntime(model: Path, threads: int, x: FloatArray) -> Callable[[], object]:
    from resnetrt.runtime.backends.onnxruntime import create_native

    native = create_native(model, "cpu", threads)
    outputs, feed = [node.name for node in native.get_outputs()], {native.get_inputs()[0].name: x}
    return lambda: native.run(outputs, feed)


def _openvino(model: Path, threads: int, x: FloatArray) -> Callable[[], object]:
    import openvino as ov

    from resnetrt.runtime.backends.openvino import properties

    request: Any = ov.Core().compile_model(model, "CPU", properties("fp32", threads)).create_infer_request()
    return lambda: request.infer({0: x}, share_inputs=True)


_BARE: dict[str, Callable[[Path, int, FloatArray], Callable[[], object]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
