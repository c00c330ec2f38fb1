"""What engines are compared with in the same run: eager PyTorch, torch.compile, and NNCF with OpenVINO."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetrt.benchmarks.latency import BASELINE, Contender, Infer
from resnetrt.benchmarks.reference import eager_infer
from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing
from resnetrt.preprocess import FloatArray

if TYPE_CHECKING:
    from torch import nn

COMPILED, NNCF = "torch-compile-fp32", "nncf-openvino-int8"
_NNCF_IMAGES = 64


def eager(module: "nn.Module", threads: int) -> Contender:
    """Eager FP32, the baseline of every ratio; sets torch's number of threads."""
    import torch

    torch.set_num_threads(threads)
    return Contender(BASELINE, "eager", "fp32", eager_infer(module), threads)


def peers(
    module: "nn.Module | None", bundle: Bundle, batch: FloatArray, threads: int
) -> Iterator[tuple[str, Contender | str]]:
    """Name and contender of each peer, or why it is not here. `batch` is an input of the size to be timed."""
    makers: dict[str, Callable[[], Infer]] = {
        COMPILED: lambda: _compiled(module, batch),
        NNCF: lambda: _nncf(bundle, batch, threads),
    }
    for name, make in makers.items():
        backend, _, precision = name.rpartition("-")
        try:
            yield name, Contender(name, backend, precision, make(), threads)
        except BackendMissing as error:
            yield name, str(error)
        except Exception as error:  # torch.compile and nncf raise whatever their compilers raise
            yield name, f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _compiled(module: "nn.Module | None", batch: FloatArray) -> Infer:
    """Inductor with frozen weights, channels-last: the fastest of torch's own ways on a CPU."""
    if module is None:
        raise BackendMissing(f"{COMPILED}: expected the eager module, found none; install resnetrt[torch]")
    import copy

    import torch
    from torch._inductor import config as inductor

    inductor.freezing = True
    frozen = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled: Any = torch.compile(frozen)

    def infer(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            logits: FloatArray = compiled(x).numpy()
        return logits

    infer(batch)
    return infer


def _nncf(bundle: Bundle, batch: FloatArray, threads: int) -> Infer:
    """NNCF's MIXED preset on the bundle's FP32 ONNX, run by OpenVINO with the same threads."""
    if importlib.util.find_spec("nncf") is None or importlib.util.find_spec("openvino") is None:
        raise BackendMissing(f"{NNCF}: expected the package nncf, found none; run: pip install 'resnetrt[peers]'")
    request = _nncf_request(bundle.path, threads)

    def infer(images: FloatArray) -> FloatArray:
        logits: FloatArray = next(iter(request.infer({0: images}, share_inputs=True).values()))
        return logits

    infer(batch)
    return infer


@lru_cache(maxsize=1)  # every batch size of a network uses the same
def _nncf_request(path: Path, threads: int) -> Any:
    import nncf
    import openvino as ov

    bundle, core = Bundle.open(path), ov.Core()
    model = core.read_model(bundle.variant_file("fp32"))
    images = _calibration_images(bundle)
    dataset = nncf.Dataset([image[None] for image in images])
    quantized = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    return core.compile_model(quantized, "CPU", settings).create_infer_request()


def _calibration_images(bundle: Bundle) -> FloatArray:
    from resnetrt.calibration.data import open_dataset

    preprocessing = bundle.manifest.preprocessing
    dataset = open_dataset("fashion_calib", preprocessing, labelled=False).subset(_NNCF_IMAGES)
    return preprocessing.normalize(np.concatenate([batch.frames for batch in dataset.batches(_NNCF_IMAGES)]))
