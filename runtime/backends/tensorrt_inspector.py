"""The layers of a loaded engine, as TensorRT's engine inspector tells them in JSON.

Written from NVIDIA's documentation of the inspector (TensorRT developer guide, "Engine Inspector") and from records of
TensorRT 8 and 10 that others published; not run on a GPU yet. Unknown types are called `unknown`.
"""

import json
import re
from typing import Any

# the last word of a sentence such as "Thirty-two wide channel vectorized row major Int8 format", or the whole text
_WORDS = {
    **dict.fromkeys(("Float", "FP32"), "fp32"),
    **dict.fromkeys(("Half", "FP16"), "fp16"),
    **dict.fromkeys(("BFloat16", "BF16"), "bf16"),
    **{word: word.lower() for word in ("Int8", "FP8", "Int32", "Int64", "Bool", "UInt8")},
}


def inspected_layers(trt: Any, engine: Any, context: Any) -> list[dict[str, Any]]:
    """A record for each layer; none if the engine was built without ProfilingVerbosity.DETAILED or the text is no JSON.

    `context` has its input shape set: while the batch is free, the inspector tells no formats.
    """
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        found = json.loads(text, strict=False)  # metadata are separated by control characters
    except ValueError:
        return []
    layers = found.get("Layers", []) if isinstance(found, dict) else []
    return [layer for layer in layers if isinstance(layer, dict) and "Name" in layer]


def data_type(tensor: dict[str, Any]) -> str:
    """`fp32`, `fp16`, `int8`, ... of a tensor's record, or of weights (`Type`); `unknown` if it does not say."""
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Type") or "")
    return next((_WORDS[word] for word in re.findall(r"\w+", text) if word in _WORDS), "unknown")
