"""The optional packages that resnetrt can use, and those that must not be installed together."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from resnetrt.errors import BackendMissing


@dataclass(frozen=True)
class Part:
    """An optional package: what it is for, the `module` that is imported to see it work, and how to get it.

    `distributions` are the names under which it may be installed. `facts` is Python that runs after the import, with
    the module as `m`, and sets `detail`.
    """

    name: str
    purpose: str
    module: str
    install: str
    distributions: tuple[str, ...]
    facts: str = ""


def _extra(name: str) -> str:
    return f"pip install 'resnetrt[{name}]'"


def _cuda_flavours(name: str) -> tuple[str, ...]:
    return (name, f"{name}-cu11", f"{name}-cu12", f"{name}-cu13")


# distributions that fill the same package folder: the last one installed overwrites files of the others
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm")
OPENCVS = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
RIVALS = (
    ONNXRUNTIMES,
    OPENCVS,
    *(
        tuple(f"{name}-{cuda}-bindings" for cuda in ("cu11", "cu12", "cu13"))
        for name in ("tensorrt", "tensorrt-lean", "tensorrt-dispatch", "tensorrt-rtx")
    ),
)

PARTS = (
    Part(
        "onnxruntime",
        "run on the CPU; with onnxruntime-gpu also CUDA and TensorRT",
        "onnxruntime",
        "pip install onnxruntime",
        ONNXRUNTIMES,
        "detail = 'built with ' + ', '.join(p.removesuffix('ExecutionProvider') for p in m.get_available_providers())",
    ),
    Part(
        "openvino",
        "compile and run on the CPU",
        "openvino",
        _extra("openvino"),
        ("openvino",),
        "detail = 'devices ' + ', '.join(m.Core().available_devices)",
    ),
    Part("tensorrt", "compile and run on NVIDIA GPUs", "tensorrt", _extra("gpu"), _cuda_flavours("tensorrt")),
    Part(
        "tensorrt-lean",
        "run version-compatible engines",
        "tensorrt_lean",
        "pip install tensorrt-lean",
        _cuda_flavours("tensorrt-lean"),
    ),
    Part(
        "tensorrt-dispatch",
        "run engines of several TensorRT versions",
        "tensorrt_dispatch",
        "pip install tensorrt-dispatch",
        _cuda_flavours("tensorrt-dispatch"),
    ),
    Part(
        "tensorrt-rtx",
        "compile on any machine, run on RTX GPUs",
        "tensorrt_rtx",
        _extra("rtx"),
        _cuda_flavours("tensorrt-rtx"),
    ),
    Part(
        "cuda-bindings",
        "GPU memory, streams and graphs (default)",
        "cuda.bindings.runtime",
        _extra("gpu"),
        ("cuda-bindings",),
    ),
    Part("pycuda", "GPU memory and streams (alternative)", "pycuda.driver", _extra("pycuda"), ("pycuda",)),
    Part(
        "torch",
        "export, verify against eager",
        "torch",
        _extra("torch"),
        ("torch",),
        "detail = f'CUDA {m.version.cuda}' if m.version.cuda else 'CPU build'",
    ),
    Part("onnx", "read, check and write ONNX", "onnx", _extra("export"), ("onnx",)),
    Part("onnx-ir", "edit and quantize ONNX", "onnx_ir", _extra("export"), ("onnx-ir",)),
    Part("onnxscript", "export from torch", "onnxscript", _extra("torch"), ("onnxscript",)),
    Part("starlette", "serve over HTTP", "starlette", _extra("serve"), ("starlette",)),
    Part("tritonclient", "serve over gRPC", "tritonclient.grpc", _extra("serve"), ("tritonclient",)),
    Part("opencv", "predict from a camera or a video", "cv2", _extra("video"), OPENCVS),
    Part("mlcommons-loadgen", "MLPerf load scenarios", "mlperf_loadgen", _extra("bench"), ("mlcommons-loadgen",)),
    Part("matplotlib", "pictures in reports", "matplotlib", _extra("report"), ("matplotlib",)),
    Part("scipy", "confidence intervals in reports", "scipy", _extra("report"), ("scipy",)),
    Part("ray", "score a data set on many machines", "ray", _extra("ray"), ("ray",)),
    Part("nncf", "compare with another quantizer", "nncf", _extra("peers"), ("nncf",)),
)

# packages that are only needed beside another part, by the name under which they are imported
_BESIDE = {
    "ml_dtypes": _extra("export"),
    "google": _extra("serve"),
    "grpc": _extra("serve"),
    "grpc_health": _extra("serve"),
    "h11": _extra("serve"),
    "prometheus_client": _extra("serve"),
    "uvicorn": _extra("serve"),
    "cuda": _extra("gpu"),
    "pycuda": _extra("pycuda"),
    "tritonclient": _extra("serve"),
}


def how_to_get(module: str) -> str | None:
    """The command that installs the optional package which `module` is part of; None if resnetrt knows no such one."""
    package = module.partition(".")[0]
    installs = {part.module.partition(".")[0]: part.install for part in PARTS}
    return (installs | _BESIDE).get(package)


def import_part(module: str, user: str) -> Any:
    """Import `module` of an optional package for `user`: a command, an option, or a backend.

    Raises `BackendMissing` with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise missing_part(module, user) from error
        raise missing_part(module, user, f"does not import ({error})") from error


def require_parts(user: str, *modules: str) -> None:
    """Raise `BackendMissing` for the first of `modules` that is not installed; nothing is imported."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing_part(module, user)


def missing_part(module: str, user: str, state: str = "is not installed") -> BackendMissing:
    """The error that says to `user` what is wrong with the package of `module`, and how to get it."""
    package = module.partition(".")[0]
    name = next((part.distributions[0] for part in PARTS if part.module.partition(".")[0] == package), package)
    told = package if name.replace("-", "_") == package else f"{name} ({package})"
    return BackendMissing(f"{user}: the package {told} {state}; run: {how_to_get(package) or f'pip install {package}'}")
