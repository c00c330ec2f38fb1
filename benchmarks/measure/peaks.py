"""The machine's peak rates for matrix products and memory copy, measured in the run that they are compared with."""

import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from resnetrt.benchmarks.measure.gpu_peaks import GpuPeaks, merge_gpu_peaks
from resnetrt.benchmarks.measure.products import ProductRow, best_rates, import_onnx, open_session, save_chain
from resnetrt.benchmarks.measure.timing import Schedule, measure
from resnetrt.errors import BackendMissing, UsageError

# rows, columns of square products, products in a row: limited by arithmetic, and quick to measure
SHAPES = ((512, 1024, 4), (784, 512, 8))
_MULTIPLIED = ("fp32", "int8")
_SCHEDULE = Schedule(rounds=5, min_block_s=0.06, settle_s=0.04, warm_up_s=0.15)
_COPY_BYTES = 256 << 20


class _MeasuredPeaks(TypedDict):
    matmul: list[ProductRow]
    copy_gb_s: float
    best: dict[str, float]


class Peaks(_MeasuredPeaks, total=False):
    """The peaks of a machine; those of its GPU where cells ran there."""

    gpu: GpuPeaks


def measure_peaks(backends: Iterable[str], precisions: Iterable[str], threads: int) -> Peaks:
    """Billions of operations a second of matrix products, by backend and precision, and GB/s of a memory copy.

    One multiply-accumulate is two operations; a copied byte counts twice, as read and as written. `best` is each
    precision's largest rate over backends and shapes, from the median of the fastest block, because a peak is what was
    reached.
    """
    rows: list[ProductRow] = []
    for backend in backends:
        for precision in (name for name in precisions if name in _MULTIPLIED):
            try:
                rows.append(_matmul(backend, precision, threads))
            except (BackendMissing, UsageError) as error:
                rows.append({"backend": backend, "precision": precision, "gops": None, "why": str(error)})
    return {"matmul": rows, "copy_gb_s": copy_rate(threads), "best": best_rates(rows)}


def merge_peaks(first: Peaks, second: Peaks) -> Peaks:
    """The larger of two measurements, one before and one after the cells."""
    rows: list[ProductRow] = [
        {**a, "gops": max((x for x in (a["gops"], b["gops"]) if x is not None), default=None)}
        for a, b in zip(first["matmul"], second["matmul"], strict=True)
    ]
    copy_gb_s = max(first["copy_gb_s"], second["copy_gb_s"])
    merged: Peaks = {"matmul": rows, "copy_gb_s": copy_gb_s, "best": best_rates(rows)}
    gpu = [peaks["gpu"] for peaks in (first, second) if "gpu" in peaks]
    if gpu:
        merged["gpu"] = merge_gpu_peaks(gpu[0], gpu[-1])
    return merged


def copy_rate(threads: int) -> float:
    """GB/s of a copy of memory larger than the caches, with `threads` threads; read and written bytes both count."""
    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)
    edges = np.linspace(0, _COPY_BYTES, threads + 1).astype(int)
    parts = list(pairwise(edges))
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(6):
            start = time.perf_counter()
            list(pool.map(lambda part: np.copyto(target[slice(*part)], source[slice(*part)]), parts))
            best = min(best, time.perf_counter() - start)
    return 2 * _COPY_BYTES / best / 1e9


def _matmul(backend: str, precision: str, threads: int) -> ProductRow:
    reached = {f"{m}x{n}x{n}": _rate(backend, precision, (m, n, depth), threads) for m, n, depth in SHAPES}
    shape = max(reached, key=lambda name: reached[name])
    return {"backend": backend, "precision": precision, "gops": reached[shape], "shape": shape}


def _rate(backend: str, precision: str, shape: tuple[int, int, int], threads: int) -> float:
    rows, columns, depth = shape
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="resnetrt-peak-") as folder:
        model = Path(folder) / "matmul.onnx"
        write_matmul(model, shape, precision)
        with open_session(model, backend, precision, threads) as session:
            timing = measure({"matmul": lambda: session.infer(x)}, _SCHEDULE)["matmul"]
    return 2 * rows * columns * columns * depth / min(timing.round_medians_ms) / 1e6


def write_matmul(path: Path, shape: tuple[int, int, int], precision: str) -> None:
    """An ONNX chain of `depth` products `(rows, n) @ (n, n)` with ReLUs between; with Q/DQ around each for `int8`."""
    rows, columns, depth = shape
    import_onnx()
    nodes: list[Any] = []
    weights: list[Any] = []
    value = "x"
    for index in range(depth):
        add = _int8_layer if precision == "int8" else _float_layer
        value = add(index, value, columns, nodes, weights)
    save_chain(path, nodes, weights, (rows, columns), value)


def _float_layer(index: int, value: str, columns: int, nodes: list[Any], weights: list[Any]) -> str:
    from onnx import helper, numpy_helper

    w = np.random.default_rng(index).standard_normal((columns, columns)) * np.sqrt(2 / columns)
    weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{index}"))
    nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"]))
    nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"]))
    return f"r{index}"


def _int8_layer(index: int, value: str, columns: int, nodes: list[Any], weights: list[Any]) -> str:
    """uint8 inputs and int8 weights per column: the form that both backends run fastest."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(index)
    arrays = {
        f"s{index}": np.float32(4 / 255),
        f"z{index}": np.uint8(128 if index == 0 else 0),
        f"w{index}": rng.integers(-127, 128, (columns, columns)).astype(np.int8),
        f"ws{index}": np.full(columns, np.sqrt(2 / columns) / 73, np.float32),
        f"wz{index}": np.zeros(columns, np.int8),
    }
    weights += [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    grid, weight = [f"s{index}", f"z{index}"], [f"w{index}", f"ws{index}", f"wz{index}"]
    nodes += [
        helper.make_node("QuantizeLinear", [value, *grid], [f"q{index}"]),
        helper.make_node("DequantizeLinear", [f"q{index}", *grid], [f"d{index}"]),
        helper.make_node("DequantizeLinear", weight, [f"dw{index}"], axis=1),
        helper.make_node("MatMul", [f"d{index}", f"dw{index}"], [f"m{index}"]),
        helper.make_node("Relu", [f"m{index}"], [f"r{index}"]),
    ]
    return f"r{index}"
