"""Each target's Q/DQ rules, as data; docs/decisions/003 has the reasons."""

from dataclasses import dataclass
from typing import Literal

from resnetrt.errors import UsageError

METADATA = "resnetrt.dialect"  # of the files made here


@dataclass(frozen=True)
class Dialect:
    """How ranges become Q/DQ nodes for one family of engines.

    `symmetric`: activations int8 with zero point 0; else uint8 (zero point 0 where a tensor is non-negative).
    `every_output`: also quantize the outputs of convolutions that other operators read, and the main input of a
    residual add. The shortcut is always quantized. `both_sides`: repeat the pair behind pools and slices with the same
    scale, so that they run on integers. `extrema`: quantize values computed from a maximum or minimum over axes.
    OpenVINO (2026.4) fuses this quantization into the ReduceMax, and then truncates the result to integers before it
    divides by the scale. `shifted_integers`: where zero is not the
    integer 0, also pad channels, average over padding and convolve in odd groups (`placement`). OpenVINO (2026.4) then
    computes something else. `normalized_integers`: nothing stands between a scale and a
    normalization that reads it. OpenVINO (2026.4) then forgets the scale in eps. `integer_bias`: store biases as int32
    with the scale of the accumulator. `pixels`: how exact pixels enter (`bake`): `raw` bytes dequantized, `paired`
    behind a uint8 pair, or `centred` to p - 128 behind a symmetric pair. `host`: made for CPU kernels. Without an INT8
    dot product they add two products in 16 bits, which saturates with 8-bit weights.
    """

    name: str
    symmetric: bool
    every_output: bool
    both_sides: bool
    integer_bias: bool
    pixels: Literal["raw", "paired", "centred"]
    host: bool = True
    extrema: bool = True
    shifted_integers: bool = True
    normalized_integers: bool = True


DIALECTS = {
    # TensorRT fuses conv + add + ReLU when the main branch is float; zero points must be zero, biases float.
    "tensorrt": Dialect(
        "tensorrt",
        symmetric=True,
        every_output=False,
        both_sides=False,
        integer_bias=False,
        pixels="centred",
        host=False,
    ),
    # OpenVINO fuses the add too: a pair on the main branch would cost 1 to 1.5 dB and gain nothing.
    "cpu": Dialect(
        "cpu",
        symmetric=False,
        every_output=False,
        both_sides=True,
        integer_bias=False,
        pixels="paired",
        extrema=False,
        shifted_integers=False,
        normalized_integers=False,
    ),
    # ONNX Runtime runs a convolution on integers only if its output is quantized, main branch or not.
    "onnxruntime": Dialect(
        "onnxruntime", symmetric=False, every_output=True, both_sides=True, integer_bias=True, pixels="raw"
    ),
}


def dialect(name: str) -> Dialect:
    """The dialect `name`; raises `UsageError` suggesting the known ones."""
    if name not in DIALECTS:
        raise UsageError.unknown("dialect", name, DIALECTS)
    return DIALECTS[name]
