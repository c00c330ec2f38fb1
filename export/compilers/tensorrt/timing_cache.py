"""Timings of kernels from earlier builds, which make the next build for the same GPU quicker and choose alike.

By default they are kept in the user's cache folder, in one file for each TensorRT version and GPU.
"""

import contextlib
import fcntl
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.errors import UsageError
from resnetrt.export.compilers.tensorrt.options import NONE, TensorRTOptions
from resnetrt.kept_files import cache_folder, prune

_log = logging.getLogger("resnetrt.export")


@dataclass(frozen=True)
class TimingCache:
    """The file of a build's timings. `given`: the user named it, so trouble with it is the user's to know."""

    path: Path
    given: bool

    def attach(self, config: Any) -> None:
        """Start the build from the file's content, if there is any.

        TensorRT refuses a cache of another version or GPU: `UsageError` for a file that was `given`, else it is started
        anew.
        """
        blob = self.path.read_bytes() if self.path.is_file() else b""
        if _set(config, blob):
            return
        if self.given:
            raise UsageError(
                f"--timing-cache {self.path}: expected a cache of this TensorRT and GPU; delete it to start anew"
            )
        _log.warning("timing cache %s: TensorRT does not take it, so it is started anew", self.path)
        _set(config, b"")

    def save(self, config: Any) -> None:
        """Add the build's timings to those that the file has by now: another build may have ended meanwhile."""
        try:
            with _alone(self.path):
                cache = config.get_timing_cache()
                blob = self.path.read_bytes() if self.path.is_file() else b""
                other = config.create_timing_cache(blob) if blob else None
                if other is not None:
                    cache.combine(other, False)  # false for one of another GPU, which is replaced
                write_file(self.path, bytes(cache.serialize()))
            if not self.given:
                prune(self.path.parent)
        except OSError as error:
            if self.given:
                raise
            _log.warning("timing cache %s is not updated: %s", self.path, error)


def timing_cache(version: str, gpu: str, options: TensorRTOptions) -> TimingCache | None:
    """The cache of a build by TensorRT `version` for a model of `gpu`; None for none, or where the user has no home."""
    if options.timing_cache == NONE:
        return None
    if options.timing_cache:
        return TimingCache(Path(options.timing_cache), given=True)
    try:
        folder = cache_folder("tensorrt")
    except RuntimeError:
        return None
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{version} {gpu}").strip("-")
    return TimingCache(folder / f"{name}.timings", given=False)


def _set(config: Any, blob: bytes) -> bool:
    cache = config.create_timing_cache(blob)
    return cache is not None and bool(config.set_timing_cache(cache, False))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Exclude other processes that do the same with `path`, and other threads, until the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: the last build wins there
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
