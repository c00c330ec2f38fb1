"""Kernels that TensorRT-RTX compiled for a GPU, kept in the user's cache folder for the next process.

TensorRT-RTX compiles them when an engine runs for the first time. It checks what it is given: another version, GPU or
older driver is refused, and the kernels are compiled anew (`IRuntimeCache::deserialize`).
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.kept_files import cache_folder, prune, use

_log = logging.getLogger("resnetrt.runtime")


class KernelFile:
    """The file for an engine on a model of GPU; it may be deleted at any time, and need not be writable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = b""

    @classmethod
    def of(cls, engine: bytes, version: str, gpu: str) -> "KernelFile":
        """That of the engine's content, the version of TensorRT-RTX and the name of the GPU."""
        digest = hashlib.sha256(engine).hexdigest()[:16]
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{digest}-{version}-{gpu}").strip("-")
        return cls(cache_folder("tensorrt_rtx") / f"{name}.kernels")

    def read_into(self, kernels: Any) -> None:
        """Fill an empty `IRuntimeCache` with what is stored, if TensorRT-RTX takes it."""
        try:
            stored = self.path.read_bytes()
        except OSError:
            return
        if stored and kernels.deserialize(stored):
            self._stored = stored
            use(self.path)

    def write(self, kernels: Any) -> None:
        """Store what an `IRuntimeCache` holds, if it is more than before."""
        content = bytes(kernels.serialize())
        if not content or content == self._stored:
            return
        self._stored = content
        try:
            write_file(self.path, content)
            use(self.path)
            prune(self.path.parent)
        except OSError as error:
            _log.warning("kernels of TensorRT-RTX can't be kept, each process compiles them again: %s", error)
