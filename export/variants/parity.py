"""Run an ONNX file in ONNX Runtime and compare it with eager, or with the file before a rewrite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed
from resnetrt.golden import Golden
from resnetrt.parity import compare, failures, tolerance
from resnetrt.preprocess import FloatArray, UInt8Array
from resnetrt.settings import read_settings

_BATCH = 8


def fp32_outputs(bundle: Bundle) -> FloatArray:
    """What the FP32 file says of the golden images, by which its rewrites are judged: as stored, or run now.

    Bundles of older versions have no stored outputs.
    """
    own = Golden.of(bundle, "fp32").own
    return golden_outputs(bundle, bundle.variant_file("fp32")) if own is None else own


def golden_outputs(bundle: Bundle, model_path: Path) -> FloatArray:
    """What the ONNX file at `model_path` says of the golden images, float32 `(n, classes)`, node by node as written.

    ONNX Runtime's graph optimizations are off: they run Q/DQ networks on integer kernels, which on a CPU without an
    INT8 dot product saturate, so that the file would be judged by the machine. A model with uint8 input gets the frames
    as they are, any other the preprocessed images.
    """
    frames, session = Golden.of(bundle).frames, _session(model_path, as_written=True)
    takes_frames = session.get_inputs()[0].type == "tensor(uint8)"
    images = frames if takes_frames else bundle.manifest.preprocessing.normalize(frames)
    return _in_batches(_runner(session), images, _BATCH)


def run_onnx(
    model: Path | bytes, images: FloatArray | UInt8Array, batch: int = _BATCH, as_written: bool = False
) -> FloatArray:
    """Logits of `images` `(N, C, H, W)`, or of frames, by ONNX Runtime on the CPU, in small batches.

    `as_written`: without graph optimizations, node by node.
    """
    return _in_batches(_runner(_session(model, as_written)), images, batch)


def onnx_runner(model_path: Path, threads: int | None = None) -> Callable[[FloatArray], FloatArray]:
    """A function from float32 `(N, C, H, W)` to the first output of the ONNX file, on the CPU."""
    return _runner(_session(model_path, threads=threads))


def _in_batches(run: Callable[[Any], FloatArray], images: FloatArray | UInt8Array, batch: int) -> FloatArray:
    return np.concatenate([run(images[i : i + batch]) for i in range(0, len(images), batch)])


def _runner(session: Any) -> Callable[[Any], FloatArray]:
    name = session.get_inputs()[0].name

    def run(images: Any) -> FloatArray:
        logits: FloatArray = session.run(None, {name: images})[0]
        return logits

    return run


def _session(model: Path | bytes, as_written: bool = False, threads: int | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or read_settings().threads
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def difference(expected: FloatArray, model: bytes, batch: FloatArray | UInt8Array, noise: float = 0.0) -> str:
    """The limits of the FP32 tolerance that the ONNX `model` breaks, in words; empty if it computes the same.

    `expected` `(n, classes)` are the outputs before the rewrite, of the file as written, `batch` is what the model
    takes: images or frames. If eager itself has `noise`, the tolerance is widened as for eager.
    """
    try:
        parity = compare(expected, run_onnx(model, batch, as_written=True), noise)
        return "; ".join(failures(parity, tolerance("onnxruntime", "fp32")))
    except CheckFailed as error:
        return str(error)
    except Exception as error:  # ONNX Runtime's exceptions derive from Exception alone
        return f"it does not run: {str(error).splitlines()[0]}"
