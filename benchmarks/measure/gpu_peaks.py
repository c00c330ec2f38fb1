"""The GPU's peak rates for matrix products and memory copy, measured in the run that they are compared with.

The products run in the backends that the cells use, on tensors that lie on the device: no transfer is among the time.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from resnetrt.benchmarks.measure.in_place import place
from resnetrt.benchmarks.measure.products import ProductRow, best_rates, import_onnx, open_session, save_chain
from resnetrt.errors import BackendMissing, EnvironmentFault, UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.cuda import Cuda, DeviceBuffer, chosen_device, open_cuda
from resnetrt.settings import read_settings

# square products in a row, of one matrix: a few milliseconds on the largest GPUs, where a call costs some 50 us
SIZE, DEPTH = 4096, 16
TENSORRT = ("tensorrt", "tensorrt_rtx")
MULTIPLIED = ("fp32", "fp16", "int8")
_COPY_BYTES = 256 << 20
_COPIES = 10
_SECONDS = 0.5
_LEAST_RUNS = 3


class _MeasuredPeaks(TypedDict):
    matmul: list[ProductRow]
    copy_gb_s: float | None
    best: dict[str, float]


class GpuPeaks(_MeasuredPeaks, total=False):
    """A GPU's peaks; `why` says why its memory copy was not measured."""

    why: str


def measure_gpu_peaks(backends: Iterable[str], precisions: Iterable[str]) -> GpuPeaks:
    """As `peaks.measure_peaks`, on the chosen GPU, for those of `backends` that are TensorRT.

    ONNX Runtime's sessions copy their input to the GPU. A rate is None where `why` says so.
    """
    rows: list[ProductRow] = []
    for backend in (name for name in backends if name in TENSORRT):
        for precision in (name for name in precisions if name in MULTIPLIED):
            row: ProductRow = {"backend": backend, "precision": precision, "gops": None}
            try:
                row["gops"] = _matmul(backend, precision)
            except (BackendMissing, EnvironmentFault, UsageError) as error:
                row["why"] = str(error)
            rows.append(row)
    copied: float | None
    try:
        chosen = chosen_device("bench")
        copied, why = gpu_copy_rate(open_cuda(read_settings().cuda, 0 if chosen is None else chosen.index)), ""
    except (BackendMissing, EnvironmentFault) as error:
        copied, why = None, str(error)
    peaks: GpuPeaks = {"matmul": rows, "copy_gb_s": copied, "best": best_rates(rows)}
    if why:
        peaks["why"] = why
    return peaks


def merge_gpu_peaks(first: GpuPeaks, second: GpuPeaks) -> GpuPeaks:
    """The larger of two measurements, one before and one after the cells."""
    copies = [peaks["copy_gb_s"] for peaks in (first, second) if peaks["copy_gb_s"] is not None]
    precisions = {*first["best"], *second["best"]}
    best = {name: max(peaks["best"].get(name, 0.0) for peaks in (first, second)) for name in sorted(precisions)}
    return {**first, "copy_gb_s": max(copies, default=None), "best": best}


def gpu_copy_rate(cuda: Cuda, size_bytes: int = _COPY_BYTES) -> float:
    """GB/s of a copy within the device's memory; read and written bytes both count."""
    source, target = DeviceBuffer(cuda, size_bytes), DeviceBuffer(cuda, size_bytes)
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    best = float("inf")
    for _ in range(_COPIES):
        cuda.record(start, stream)
        cuda.copy_on_device(target.address, source.address, size_bytes, stream)
        cuda.record(end, stream)
        best = min(best, cuda.elapsed_ms(start, end))
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.destroy_stream(stream)
    return 2 * size_bytes / best / 1e6


def _matmul(backend: str, precision: str) -> float:
    """Billions of operations a second."""
    chosen = find_compiler(backend)
    target = chosen.resolve_target(None)
    if why := chosen.obstacle(target):
        raise BackendMissing(why)
    with tempfile.TemporaryDirectory(prefix="resnetrt-peak-") as folder:
        model = Path(folder) / "products.onnx"
        write_products(model, precision)
        profiles = {"profiles": f"{SIZE}:{SIZE}:{SIZE}"}
        with open_session(model, backend, precision, 1, target, profiles) as session:
            assert isinstance(session, TensorRtSession)
            return products_rate(session, SIZE, DEPTH)


def products_rate(session: TensorRtSession, size: int, depth: int) -> float:
    """Billions of operations a second of the quickest run; it reads its input where it lies on the device."""
    call = place(session, np.ones((size, size), np.float32))
    best, runs, end = float("inf"), 0, time.perf_counter() + _SECONDS
    while runs < _LEAST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best, runs = min(best, time.perf_counter() - started), runs + 1
    return 2 * size**3 * depth / best / 1e9


def write_products(path: Path, precision: str, size: int = SIZE, depth: int = DEPTH) -> None:
    """An ONNX chain of `depth` products with one `(size, size)` matrix and ReLUs between, for TensorRT.

    `int8` has symmetric Q/DQ pairs, the only ones that TensorRT takes. Inputs and outputs are float32.
    """
    onnx = import_onnx()
    helper = onnx.helper
    nodes: list[Any] = []
    value = "x"
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", [value], ["x16"], to=onnx.TensorProto.FLOAT16))
        value = "x16"
    weight = "w"
    if precision == "int8":
        nodes.append(helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=1))
        weight = "dw"
    for index in range(depth):
        if precision == "int8":
            nodes += [
                helper.make_node("QuantizeLinear", [value, "s", "z"], [f"q{index}"]),
                helper.make_node("DequantizeLinear", [f"q{index}", "s", "z"], [f"d{index}"]),
            ]
            value = f"d{index}"
        nodes += [
            helper.make_node("MatMul", [value, weight], [f"m{index}"]),
            helper.make_node("Relu", [f"m{index}"], [f"r{index}"]),
        ]
        value = f"r{index}"
    nodes.append(helper.make_node("Cast", [value], ["y"], to=onnx.TensorProto.FLOAT))
    save_chain(path, nodes, _weights(precision, size), (size, size), "y")


def _weights(precision: str, size: int) -> list[Any]:
    from onnx import numpy_helper

    rng = np.random.default_rng(0)
    if precision == "int8":
        arrays = {
            "w": rng.integers(-127, 128, (size, size)).astype(np.int8),
            "ws": np.full(size, np.sqrt(2 / size) / 73, np.float32),
            "wz": np.zeros(size, np.int8),
            "s": np.float32(4 / 127),
            "z": np.int8(0),
        }
    else:
        values = rng.standard_normal((size, size)) * np.sqrt(2 / size)
        arrays = {"w": values.astype(np.float16 if precision == "fp16" else np.float32)}
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
