"""Run an ONNX file in ONNX Runtime on the golden images and compare with eager: the check after every graph change."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from resnetrt.bundle import Bundle
from resnetrt.golden import Golden
from resnetrt.parity import Parity, compare


def measure_parity(bundle: Bundle, model_path: Path) -> Parity:
    """Run the ONNX file at `model_path` in ONNX Runtime on the bundle's golden images and compare with eager."""
    golden = Golden.of(bundle)
    images = bundle.manifest.preprocessing.normalize(golden.frames)
    return compare(golden.logits, run_onnx(model_path, images))


def run_onnx(model_path: Path, images: npt.NDArray[np.float32], batch: int = 8) -> npt.NDArray[np.float32]:
    """Logits of `images` `(N, C, H, W)` by ONNX Runtime on the CPU, in small batches."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    return np.concatenate(parts)
