"""What ONNX Runtime's execution providers are told: every setting that would else be wrong, slow or made anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetrt.runtime.backends.onnxruntime_cache import kept_options

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_EDGES = ("min", "opt", "max")


def provider_options(
    provider: str,
    path: Path,
    precision: str,
    version: str,
    profiles: Sequence[Mapping[str, Any]] = (),
    graphs: bool = False,
) -> dict[str, str]:
    """Options of `provider` for the file at `path`, as the strings that ONNX Runtime `version` takes.

    CUDA: no TF32, which is allowed by default, and CUDA graphs if `graphs`. TensorRT: which of the file's types it may
    use, the shapes to tune for, and where built engines and timings are kept.
    """
    if provider == CUDA:
        # with TF32 an FP32 engine is 66 dB from eager, not 80 and more
        return {"use_tf32": "0"} | ({"enable_cuda_graph": "1"} if graphs else {})
    if provider != TENSORRT:
        return {}
    # the INT8 file has FP16 between its Q/DQ pairs
    types = {"trt_fp16_enable": str(precision in ("fp16", "int8")), "trt_int8_enable": str(precision == "int8")}
    return types | _shapes(profiles) | kept_options(path, precision, version)


def _shapes(profiles: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Without them the provider builds again for each new batch size."""
    return {
        f"trt_profile_{edge}_shapes": ",".join(
            f"{profile['input']}:{'x'.join(map(str, profile[edge]))}" for profile in profiles
        )
        for edge in _EDGES
        if profiles
    }
