"""What a loaded engine tells of itself: its tensors, its profiles, and its layers.

The layers are those of TensorRT's engine inspector, in JSON. Read from NVIDIA's documentation of it (TensorRT developer
guide, "Engine Inspector") and from records of TensorRT 8 and 10 that others published; not run on a GPU yet. Unknown
types are called `unknown`.
"""

import json
import re
from typing import Any

from resnetrt.tensor_spec import TensorSpec

Shape = tuple[int, ...]
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "FP8": "float8_e4m3fn",
}

# the last word of a sentence such as "Thirty-two wide channel vectorized row major Int8 format", or the whole text
_WORDS = {
    **dict.fromkeys(("Float", "FP32"), "fp32"),
    **dict.fromkeys(("Half", "FP16"), "fp16"),
    **dict.fromkeys(("BFloat16", "BF16"), "bf16"),
    **{word: word.lower() for word in ("Int8", "FP8", "Int32", "Int64", "Bool", "UInt8")},
}


def word(member: Any) -> str:
    """The name of a member of TensorRT's enumerations: `FLOAT` of `DataType.FLOAT`."""
    return str(member.name)


def tensor_spec(name: str, dtype: Any, shape: Any) -> TensorSpec:
    """A tensor of a network or an engine, in numpy's words."""
    axes = tuple(None if axis < 0 else int(axis) for axis in shape)
    return TensorSpec(name, _NUMPY.get(word(dtype), word(dtype).lower()), axes)


def engine_specs(engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs, in the engine's order."""
    specs: dict[str, list[TensorSpec]] = {"INPUT": [], "OUTPUT": []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        spec = tensor_spec(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
        specs[word(engine.get_tensor_mode(name))].append(spec)
    return tuple(specs["INPUT"]), tuple(specs["OUTPUT"])


def engine_profiles(engine: Any, spec: TensorSpec) -> list[tuple[Shape, Shape, Shape]]:
    """Smallest, tuned and largest shape of the input `spec` in each profile; its own shape if that is fixed."""
    fixed = tuple(axis for axis in spec.shape if axis is not None)
    if len(fixed) == len(spec.shape):
        return [(fixed, fixed, fixed)]
    shapes = [engine.get_tensor_profile_shape(spec.name, i) for i in range(engine.num_optimization_profiles)]
    edges = [[tuple(map(int, edge)) for edge in each] for each in shapes]
    return [(low, best, high) for low, best, high in edges]


def inspected_layers(trt: Any, engine: Any, context: Any) -> list[dict[str, Any]]:
    """A record for each layer; none if the engine was built without ProfilingVerbosity.DETAILED or the text is no JSON.

    `context` has its input shape set: while the batch is free, the inspector tells no formats.
    """
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        content = json.loads(text, strict=False)  # metadata are separated by control characters
    except ValueError:
        return []
    layers = content.get("Layers", []) if isinstance(content, dict) else []
    return [layer for layer in layers if isinstance(layer, dict) and "Name" in layer]


def data_type(tensor: dict[str, Any]) -> str:
    """`fp32`, `fp16`, `int8`, ... of a tensor's record, or of weights (`Type`); `unknown` if it does not say."""
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Type") or "")
    return next((_WORDS[word] for word in re.findall(r"\w+", text) if word in _WORDS), "unknown")
