"""GPU checks of engines: parity of FP32, FP16 and INT8 with eager, and latency against depth by CUDA events."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, CheckFailed
from resnetrt.runtime.cuda import find_devices

_CHECKED = ("fp32", "fp16", "int8")
# backend and target; None is the compiler's default for this machine
ENGINES = (("onnxruntime", "cuda"), ("onnxruntime", "trt-ep"), ("tensorrt", None), ("tensorrt_rtx", None))
DEPTHS = (18, 34, 50, 101, 152)
BATCHES = (1, 8)
_RUNS = 100
_MODEL = "fashion_resnet20"


def engine_checks(folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The checks by name."""
    bundle = cache(partial(make_bundle, folder / "fashion.bundle"))
    for backend, target in ENGINES:
        for precision in _CHECKED:
            name = f"{backend}{' ' + target if target else ''}: {precision} parity"
            yield name, partial(check_parity, bundle, backend, target, precision)
    for backend in ("tensorrt", "tensorrt_rtx"):
        for depth in DEPTHS:
            yield f"{backend}: resnet{depth} fp16 latency", partial(check_latency, folder, backend, depth)


def make_bundle(path: Path) -> Bundle:
    """The bundle of the embedded network, calibrated and quantized for CPUs and for TensorRT."""
    from resnetrt.benchmarks.verify.prepare import prepare_export
    from resnetrt.calibration.observe.collect import calibrate_bundle
    from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
    from resnetrt.export.fp32.export import export_bundle

    bundle, _ = export_bundle(prepare_export(_MODEL), path)
    calibrate_bundle(bundle, "fashion_calib", 256)
    quantize_variant(bundle, "tensorrt", QuantizeOptions("mse"))
    return bundle


def check_parity(make: Callable[[], Bundle], backend: str, target: str | None, precision: str) -> dict[str, Any]:
    """Compile for this GPU, load, compare with the eager model's golden outputs; audit TensorRT's engines."""
    from resnetrt.export.engines.compile import choose_variant, compile_variant
    from resnetrt.runtime import load

    require_gpu()
    bundle = make()
    # on a GPU, ONNX Runtime uses TensorRT's dialect: its CUDA and TensorRT providers need symmetric ranges
    gpu_dialect = backend == "onnxruntime" and precision == "int8"
    variant = "int8.tensorrt" if gpu_dialect else choose_variant(bundle, backend, precision)
    engine = compile_variant(bundle, variant, backend, target)
    with load(bundle, engine) as session:
        assert session.selftest is not None
        found = {"engine": engine, "parity": session.selftest.to_json()}
    # ONNX Runtime's GPU providers do not expose the graph that they run
    return found if backend == "onnxruntime" else found | audited(bundle, engine, precision)


def audited(bundle: Bundle, engine: str, precision: str) -> dict[str, Any]:
    """Shares of the multiply-accumulates. Raises `CheckFailed` if less than 95% of them run in `precision`."""
    from resnetrt.export.audit import Requirement, audit_engine, broken_requirements

    audit = audit_engine(bundle, engine)
    broken = broken_requirements(audit, [Requirement(precision, 0.95)])
    if broken:
        raise CheckFailed("; ".join(broken))
    return {"share_by_precision": audit.share_by_precision, "read_from": audit.evidence.read_from}


def check_latency(folder: Path, backend: str, depth: int) -> dict[str, Any]:
    """Milliseconds of a ResNet with random weights at 224x224 in FP16, copies included, by CUDA events."""
    from resnetrt.benchmarks.verify.prepare import prepare_export
    from resnetrt.export.engines.compile import choose_variant, compile_variant
    from resnetrt.export.fp32.export import export_bundle
    from resnetrt.runtime import load
    from resnetrt.runtime.backends.tensorrt import TensorRtSession

    require_gpu()
    bundle, _ = export_bundle(prepare_export(f"resnet{depth}"), folder / f"resnet{depth}-{backend}.bundle")
    engine = compile_variant(bundle, choose_variant(bundle, backend, "fp16"), backend)
    with load(bundle, engine) as session:
        assert isinstance(session, TensorRtSession)
        times = {batch: session.execution_ms(batch, _RUNS) for batch in BATCHES}
    rows = {f"batch_{batch}_median_ms": float(np.median(each)) for batch, each in times.items()}
    return rows | {f"batch_{batch}_p99_ms": float(np.quantile(each, 0.99)) for batch, each in times.items()}


def require_gpu() -> None:
    """Raise `BackendMissing` with the reason if there is none."""
    devices, reason = find_devices()
    if not devices:
        raise BackendMissing(f"no GPU: {reason}")
