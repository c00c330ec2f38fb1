"""Where ONNX Runtime's TensorRT provider keeps built engines and timings, and who may build at a time.

The provider writes its files in place and locks nothing (microsoft/onnxruntime#10412): a process that loads meanwhile
would read half an engine, and of two that build the last one's timings would stay.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from resnetrt.bundle import sha256_of
from resnetrt.kept_files import cache_folder, prune, use

_ENGINES, _TIMINGS = "trt_engine_cache_path", "trt_timing_cache_path"
_LOCK = ".lock"
_log = logging.getLogger("resnetrt.runtime")


def kept_options(path: Path, precision: str, version: str) -> dict[str, str]:
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
        _ENGINES: str(folder),
        "trt_timing_cache_enable": "True",
        _TIMINGS: str(folder.parent),
    }


@contextlib.contextmanager
def building(options: Mapping[str, str], target: str) -> Iterator[None]:
    """Exclude others that load the same file with the provider's `options`, and for a build, all others that build.

    `target` is the GPU's, as `sm86`: an engine that is built for it is only read. An empty one is unknown.
    """
    with contextlib.ExitStack() as locks:
        if _ENGINES in options:
            engines = Path(options[_ENGINES])
            _lock(locks, engines)
            if not (target and any(engines.glob(f"*{target}*.engine"))):
                _lock(locks, Path(options[_TIMINGS]))
        yield


def _lock(locks: contextlib.ExitStack, folder: Path) -> None:
    """Lock a file in the folder until the end; the folder itself is locked by all who use it (`kept_files.use`)."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # not the user's, or deleted: nothing is kept there then
        return
    locks.callback(os.close, descriptor)
    with contextlib.suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("another process builds in %s: waiting for it", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
