"""The backends by name; each is imported when it is first used."""

import importlib
from pathlib import Path
from typing import Protocol, cast

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.runtime.session import Session


class Backend(Protocol):
    """What a module of this folder defines."""

    @staticmethod
    def load(engine_path: Path, record: EngineRecord, threads: int, device: str | None = None) -> Session:
        """Load the engine that `record` describes.

        `device` is a GPU, as `resnetrt.runtime.cuda.choose_device` takes it, by default that of the setting; the CPU
        takes no notice of it.
        Raises `BackendMissing` if this machine can't run it, `BundleError` if the file must be compiled again.
        """


BACKENDS: dict[str, str] = {
    "onnxruntime": "resnetrt.runtime.backends.onnxruntime",
    "openvino": "resnetrt.runtime.backends.openvino",
    "tensorrt": "resnetrt.runtime.backends.tensorrt",
    "tensorrt_rtx": "resnetrt.runtime.backends.tensorrt",
}


def find_backend(name: str) -> Backend:
    """The module of backend `name`. Raises `UsageError` for an unknown one; its package need not be installed."""
    if name not in BACKENDS:
        raise UsageError.unknown("backend", name, BACKENDS)
    return cast(Backend, importlib.import_module(BACKENDS[name]))


def compile_again(record: EngineRecord) -> str:
    """What to do about an engine that can't be used as it is, for the end of an error message."""
    return f"compile it again: resnetrt compile BUNDLE --backend {record.backend} --precision {record.precision}"
