"""What ONNX Runtime's execution providers are told: every setting that would else be wrong, slow or made anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetrt.bundle import sha256_of
from resnetrt.kept_files import cache_folder, prune, use

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_EDGES = ("min", "opt", "max")


def provider_options(
    provider: str, path: Path, precision: str, version: str, profiles: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Options of `provider` for the file at `path`, as the strings that ONNX Runtime `version` takes.

    CUDA: no TF32, which is allowed by default. TensorRT: which of the file's types it may use, the shapes to tune for,
    and where built engines and timings are kept.
    """
    if provider == CUDA:
        return {"use_tf32": "0"}  # with it an FP32 engine is 66 dB from eager, not 80 and more
    if provider != TENSORRT:
        return {}
    # the INT8 file has FP16 between its Q/DQ pairs
    types = {"trt_fp16_enable": str(precision in ("fp16", "int8")), "trt_int8_enable": str(precision == "int8")}
    return types | _shapes(profiles) | _caches(path, precision, version)


def _shapes(profiles: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Without them the provider builds again for each new batch size."""
    return {
        f"trt_profile_{edge}_shapes": ",".join(
            f"{profile['input']}:{'x'.join(map(str, profile[edge]))}" for profile in profiles
        )
        for edge in _EDGES
        if profiles
    }


def _caches(path: Path, precision: str, version: str) -> dict[str, str]:
    """A folder for this file's content: the provider names an engine after the graph, and would take one with other
    weights. The GPU's capability is in its names. None where there is no home to write to.
    """
    try:
        folder = cache_folder("onnxruntime") / f"{version}-{precision}-{sha256_of(path)[:32]}"
        for _ in range(3):
            folder.mkdir(parents=True, exist_ok=True)
            if use(folder):  # else another process deleted it as long unused
                break
        prune(folder.parent)
    except (OSError, RuntimeError):
        return {}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder.parent),
    }
