"""What engines are compared with on a GPU: torch, eager and compiled, and ONNX Runtime's CUDA provider."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.benchmarks.gpu.engines import BATCHES, by_batch
from resnetrt.benchmarks.measure.torch_calls import TorchOnDevice
from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed
from resnetrt.golden import Golden

_WARM_UP, _RUNS = 10, 100
_LEAST_COSINE = 0.999  # FP16 of networks with random weights stays far above, another network's logits far below


def check_torch(path: Path, precision: str, compiled: bool, device: str = "cuda") -> dict[str, Any]:
    """Milliseconds of the eager module of a bundle on the GPU, with and without transfers, by the host's clock.

    Fails if its logits are not those of the bundle's golden images.
    """
    from resnetrt.benchmarks.verify.reference import checked_eager

    bundle = Bundle.open(path)
    call = TorchOnDevice(checked_eager(bundle), device, precision, compiled)
    images = _golden_images(bundle)
    _require_alike(bundle, call(images), f"torch {precision} on {device}")
    with_transfers = {batch: timed(call, _batch(images, batch)) for batch in BATCHES}
    staying = {batch: timed(call.stay(_batch(images, batch))) for batch in BATCHES}
    return {"with_transfers": by_batch(with_transfers), "without_transfers": by_batch(staying)}


def check_onnxruntime(path: Path, precision: str, target: str = "cuda") -> dict[str, Any]:
    """Milliseconds of a bundle's engine in ONNX Runtime on the GPU, with transfers, by the host's clock."""
    from resnetrt.export.engines.compile import choose_variant, compile_variant
    from resnetrt.runtime import load

    bundle = Bundle.open(path)
    variant = choose_variant(bundle, "onnxruntime", precision, target=target)
    engine = compile_variant(bundle, variant, "onnxruntime", target)
    images = _golden_images(bundle)
    with load(bundle, engine) as session:
        _require_alike(bundle, session.infer(images)[session.output], engine)
        times = {batch: timed(session.infer, _batch(images, batch)) for batch in BATCHES}
    return {"engine": engine, "with_transfers": by_batch(times)}


def timed(call: Callable[..., object], *arguments: Any) -> list[float]:
    """Milliseconds of each of a hundred calls, after ten that do not count."""
    for _ in range(_WARM_UP):
        call(*arguments)
    times = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        call(*arguments)
        times.append(1e3 * (time.perf_counter() - started))
    return times


def _golden_images(bundle: Bundle) -> Any:
    return bundle.manifest.preprocessing.normalize(Golden.of(bundle).frames)


def _batch(images: Any, count: int) -> Any:
    return np.ascontiguousarray(images[np.arange(count) % len(images)])


def _require_alike(bundle: Bundle, logits: Any, what: str) -> None:
    expected = Golden.of(bundle).logits
    a, b = expected.astype(np.float64).ravel(), np.asarray(logits, np.float64).ravel()
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) if a.shape == b.shape else float("nan")
    if not cosine >= _LEAST_COSINE:
        raise CheckFailed(f"{what}: expected the golden logits, found a cosine of {cosine:.4f} with them")
