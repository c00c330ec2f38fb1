"""What a check needs of this machine, asked in a process of its own: a broken library may crash at its import."""

import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.benchmarks.apart.child import ChildJob, run_apart
from resnetrt.benchmarks.apart.outcome import Outcome
from resnetrt.errors import BackendMissing

if TYPE_CHECKING:
    from resnetrt.runtime.cuda import Device

_LIMIT_S = 60.0
# module: distribution, of the base install; in a copy of the source nothing else sees to them
PACKAGES = {
    "PIL": "pillow",
    "click": "click",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "rich": "rich",
    "safetensors": "safetensors",
}


def require_packages() -> None:
    """Raise `BackendMissing` if a package of the base install is not here: every check would be skipped."""
    missing = sorted(name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None)
    if missing:
        raise BackendMissing(
            f"gpu-check: expected the packages of the base install, missing {', '.join(missing)}; run: pip install "
            f"{' '.join(missing)}"
        )


class Needs:
    """Asks for each requirement once; `answers` has what was asked so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.answers: dict[str, Outcome] = {}

    def why_not(self, name: str) -> str:
        """Why this machine does not have it; empty if it does."""
        if name not in self.answers:
            out = str(self._folder / f"need-{name}.json")
            job = ChildJob(name, f"{__name__}:probe", [name], [], None, out)
            self.answers[name] = run_apart(job, _LIMIT_S)
        answer = self.answers[name]
        if answer.status == "passed":
            return ""
        return answer.reason if answer.status == "skipped" else f"{name} can't be asked for: {answer.reason}"

    def to_json(self) -> dict[str, Any]:
        """What is here, and why something is not."""
        return {name: item.measured or {"missing": self.why_not(name)} for name, item in self.answers.items()}


def probe(name: str) -> dict[str, Any]:
    """What this machine has of `name`; raises `BackendMissing` or `ImportError` with the reason if it has nothing."""
    return PROBES[name]()


def _find_devices() -> "tuple[Device, ...]":
    from resnetrt.runtime.cuda import find_devices  # the record is written even where pillow, which this needs, is not

    devices, reason = find_devices()
    if not devices:
        raise BackendMissing(f"no GPU: {reason}")
    return devices


def _gpu() -> dict[str, Any]:
    return {"devices": [{"index": each.index, "target": each.target} for each in _find_devices()]}


def _nvrtc() -> dict[str, Any]:
    nvrtc: Any = importlib.import_module("cuda.bindings.nvrtc")
    try:
        status, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # the package is here, the library libnvrtc is not
        raise BackendMissing(f"libnvrtc can't be loaded ({error}); run: pip install nvidia-cuda-nvrtc") from error
    if int(status):
        raise BackendMissing(f"nvrtcVersion returned {status.name}")
    return {"version": f"{major}.{minor}"}


def _rtx() -> dict[str, Any]:
    from resnetrt.engine_record import EngineRecord
    from resnetrt.runtime.backends.tensorrt_library import check_fits

    device = _find_devices()[0]
    check_fits(EngineRecord("probe", "tensorrt_rtx", "fp16", device.target), device)
    return _module("tensorrt_rtx")


def _module(name: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(name)
    except OSError as error:  # one of its libraries is missing
        raise BackendMissing(f"{name} can't be imported: {error}") from error
    return {"version": str(getattr(module, "__version__", "unknown"))}


def _torch_on_gpu() -> dict[str, Any]:
    said = _module("torch")
    import torch

    if not torch.cuda.is_available():
        raise BackendMissing(f"torch {torch.__version__} is a build for CPUs, or sees no GPU")
    return said | {"cuda": str(torch.version.cuda), "gpu": torch.cuda.get_device_name(0)}


def _provider(name: str) -> dict[str, Any]:
    import onnxruntime

    if name not in onnxruntime.get_available_providers():
        raise BackendMissing(f"onnxruntime {onnxruntime.__version__} has no {name}; run: pip install onnxruntime-gpu")
    return {"version": onnxruntime.__version__}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "gpu": _gpu,
    "cuda-bindings": lambda: _module("cuda.bindings.runtime") | {"version": version("cuda-bindings")},
    "pycuda": lambda: _module("pycuda.driver"),
    "nvrtc": _nvrtc,
    "tensorrt": lambda: _module("tensorrt"),
    "tensorrt_lean": lambda: _module("tensorrt_lean"),
    "tensorrt_rtx": _rtx,
    "torch-cuda": _torch_on_gpu,
    "ort-cuda": lambda: _provider("CUDAExecutionProvider"),
    "ort-tensorrt": lambda: _provider("TensorrtExecutionProvider"),
}
