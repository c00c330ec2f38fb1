"""Run an ONNX file in ONNX Runtime on the golden images and compare with eager: the check after every graph change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.golden import Golden
from resnetrt.parity import Parity, compare
from resnetrt.preprocess import FloatArray
from resnetrt.settings import read_settings

_BATCH = 8


def measure_parity(bundle: Bundle, model_path: Path) -> Parity:
    """Run the ONNX file at `model_path` in ONNX Runtime on the bundle's golden images and compare with eager.

    A model with uint8 input gets the frames as they are, any other the preprocessed images.
    """
    golden, session = Golden.of(bundle), _session(model_path)
    takes_frames = session.get_inputs()[0].type == "tensor(uint8)"
    images = golden.frames if takes_frames else bundle.manifest.preprocessing.normalize(golden.frames)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[i : i + _BATCH]})[0] for i in range(0, len(images), _BATCH)]
    return compare(golden.logits, np.concatenate(parts), golden.noise)


def run_onnx(model_path: Path, images: FloatArray, batch: int = _BATCH) -> FloatArray:
    """Logits of `images` `(N, C, H, W)` by ONNX Runtime on the CPU, in small batches."""
    run = onnx_runner(model_path)
    return np.concatenate([run(images[i : i + batch]) for i in range(0, len(images), batch)])


def onnx_runner(model_path: Path) -> Callable[[FloatArray], FloatArray]:
    """A function from float32 `(N, C, H, W)` to the first output of the ONNX file, on the CPU."""
    session = _session(model_path)
    name = session.get_inputs()[0].name

    def run(images: FloatArray) -> FloatArray:
        logits: FloatArray = session.run(None, {name: images})[0]
        return logits

    return run


def _session(model_path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = read_settings().threads
    return onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
