"""Whether a rewrite that claims to change nothing changes nothing: the network is run before and after it."""

from resnetrt.errors import CheckFailed
from resnetrt.export.onnx_parity import run_onnx
from resnetrt.parity import compare, failures, tolerance
from resnetrt.preprocess import FloatArray, UInt8Array


def difference(expected: FloatArray, model: bytes, batch: FloatArray | UInt8Array, noise: float = 0.0) -> str:
    """What of the FP32 tolerance the ONNX `model` breaks, in words; empty if it computes the same.

    `expected` `(n, classes)` are the outputs before the rewrite, of the file as written, `batch` is what the model
    takes: images or frames. Where eager has `noise` of its own, as much is allowed for as there.
    """
    try:
        found = compare(expected, run_onnx(model, batch, as_written=True), noise)
        return "; ".join(failures(found, tolerance("onnxruntime", "fp32")))
    except CheckFailed as error:
        return str(error)
    except Exception as error:  # ONNX Runtime's exceptions derive from Exception alone
        return f"it does not run: {str(error).splitlines()[0]}"
