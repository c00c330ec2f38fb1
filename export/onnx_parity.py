"""Run an ONNX file in ONNX Runtime on the golden images and compare with eager: the check after every graph change."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.golden import Golden
from resnetrt.parity import Parity, compare
from resnetrt.preprocess import FloatArray
from resnetrt.settings import read_settings


def measure_parity(bundle: Bundle, model_path: Path) -> Parity:
    """Run the ONNX file at `model_path` in ONNX Runtime on the bundle's golden images and compare with eager."""
    golden = Golden.of(bundle)
    images = bundle.manifest.preprocessing.normalize(golden.frames)
    return compare(golden.logits, run_onnx(model_path, images))


def run_onnx(model_path: Path, images: FloatArray, batch: int = 8) -> FloatArray:
    """Logits of `images` `(N, C, H, W)` by ONNX Runtime on the CPU, in small batches."""
    run = onnx_runner(model_path)
    return np.concatenate([run(images[i : i + batch]) for i in range(0, len(images), batch)])


def onnx_runner(model_path: Path) -> Callable[[FloatArray], FloatArray]:
    """A function from float32 `(N, C, H, W)` to the first output of the ONNX file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = read_settings().threads
    session = onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: FloatArray) -> FloatArray:
        logits: FloatArray = session.run(None, {name: images})[0]
        return logits

    return run
