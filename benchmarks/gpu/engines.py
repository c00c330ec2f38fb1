"""GPU checks of engines: parity of FP32, FP16 and INT8 with eager, and latency against depth by CUDA events."""

from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed

BATCHES = (1, 8)
_RUNS = 100


def check_parity(path: Path, backend: str, target: str | None, precision: str) -> dict[str, Any]:
    """Compile for this GPU, load, compare with the eager model's golden outputs; audit TensorRT's engines.

    `target` None is the compiler's default for this machine.
    """
    from resnetrt.export.engines.compile import choose_variant, compile_variant
    from resnetrt.runtime import load

    bundle = Bundle.open(path)
    variant = choose_variant(bundle, backend, precision, target=target)
    engine = compile_variant(bundle, variant, backend, target)
    with load(bundle, engine) as session:
        assert session.selftest is not None
        measured = {"engine": engine, "parity": session.selftest.to_json()}
    # ONNX Runtime's GPU providers do not expose the graph that they run
    return measured if backend == "onnxruntime" else measured | audited(bundle, engine, precision)


def audited(bundle: Bundle, engine: str, precision: str) -> dict[str, Any]:
    """Shares of the multiply-accumulates. Raises `CheckFailed` if less than 95% of them run in `precision`."""
    from resnetrt.export.audit import Requirement, audit_engine, broken_requirements

    audit = audit_engine(bundle, engine)
    broken = broken_requirements(audit, [Requirement(precision, 0.95)])
    if broken:
        raise CheckFailed("; ".join(broken))
    return {"share_by_precision": audit.share_by_precision, "read_from": audit.evidence.read_from}


def check_latency(path: Path, backend: str) -> dict[str, Any]:
    """Milliseconds of a network with random weights at 224x224 in FP16, copies included, by CUDA events."""
    from resnetrt.export.engines.compile import choose_variant, compile_variant
    from resnetrt.runtime import load

    bundle = Bundle.open(path)
    engine = compile_variant(bundle, choose_variant(bundle, backend, "fp16"), backend)
    with load(bundle, engine) as session:
        times = {batch: session.execution_ms(batch, _RUNS) for batch in BATCHES}
    return by_batch(times)


def by_batch(times: dict[int, list[float]]) -> dict[str, Any]:
    """Median and 99th percentile of the milliseconds at each batch size."""
    rows = {f"batch_{batch}_median_ms": float(np.median(each)) for batch, each in times.items()}
    return rows | {f"batch_{batch}_p99_ms": float(np.quantile(each, 0.99)) for batch, each in times.items()}
