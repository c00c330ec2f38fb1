"""The 16-bit types, and which operators compute in them."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class HalfType:
    """A 16-bit float: its ONNX and numpy types, and the first opset in which a ResNet's operators and Q/DQ take it."""

    name: str
    onnx: ir.DataType
    numpy: np.dtype[Any]
    least_opset: int
    largest: float
    smallest: float


# QuantizeLinear takes float16 from opset 19, Conv bfloat16 from opset 22 (onnx.ai/onnx/operators).
HALF_TYPES = {
    "fp16": HalfType("fp16", ir.DataType.FLOAT16, np.dtype(np.float16), 19, 65504.0, 2.0**-24),
    "bf16": HalfType("bf16", ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16), 22, 3.3895e38, 2.0**-133),
}

# Any other operator that touches floats stays FP32 and is reported.
_WORDS = """
Add AveragePool BatchNormalization Clip Concat Conv DequantizeLinear Div Dropout Expand Flatten Gemm GlobalAveragePool
GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu MatMul MaxPool Mul PRelu Pad QuantizeLinear ReduceMean Relu
Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Transpose Unsqueeze
"""
HALF_OPERATORS = frozenset(_WORDS.split())
