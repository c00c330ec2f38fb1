"""The embedded network as a device gets it: ONNX Runtime engines in FP32 and INT8, and a photo for them."""

from pathlib import Path

from PIL import Image

from resnetrt.bundle import Bundle

FP32, INT8 = "onnxruntime-fp32-cpu", "onnxruntime-int8-cpu"


def add_engines(path: Path) -> None:
    """INT8 by the calibration record of the bundle at `path`, then both engines."""
    from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
    from resnetrt.export.engines.compile import compile_variant

    variant, _ = quantize_variant(Bundle.open(path), "onnxruntime", QuantizeOptions())
    names = {compile_variant(Bundle.open(path), name, "onnxruntime") for name in ("fp32", variant)}
    assert names == {FP32, INT8}


def write_photo(path: Path) -> None:
    """A picture larger than the network's input."""
    Image.linear_gradient("L").save(path)
