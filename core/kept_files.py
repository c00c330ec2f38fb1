"""What resnetrt keeps in the user's cache folder for later processes: compiled kernels, engines and timings.

It may be deleted at any time. What nobody used for `DAYS` is deleted when something new is kept beside it, but never
what a running process uses: such a process has a shared lock (flock) on it, which the kernel releases at its end.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

DAYS = 90  # longer than a quarter's pause of a project, and short enough that engines of old versions go
_log = logging.getLogger("resnetrt")
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class KeptFiles:
    """The folder, and how many files of how many bytes together are in it."""

    folder: str
    files: int
    size_bytes: int


def cache_folder(*names: str) -> Path:
    """`~/.cache/resnetrt`, or a folder in it, which need not exist. Raises `RuntimeError` without a home."""
    return Path.home().joinpath(".cache", "resnetrt", *names)


def read_kept_files() -> KeptFiles | None:
    """What is kept here; None where there is no home."""
    try:
        folder = cache_folder()
    except RuntimeError:
        return None
    sizes = [size for path in folder.rglob("*") if (size := _size(path)) is not None]
    return KeptFiles(str(folder), len(sizes), sum(sizes))


def use(path: Path) -> bool:
    """Say that this process uses a file or folder, from now to its end; False if it is not there, or no more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        os.utime(path)
        gone = not os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:  # deleted meanwhile, or not the user's
        gone = not path.exists()
    if gone:
        os.close(descriptor)
        return False
    before = _held.pop(path, None)
    _held[path] = descriptor
    if before is not None:
        os.close(before)
    return True


def prune(folder: Path, days: float = DAYS) -> None:
    """Delete what is in `folder` and was not used for `days`. Other processes may do the same meanwhile."""
    count = size = 0
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir()):
            freed = None if entry.name.startswith(".") else _delete(entry, time.time() - days * 86400)
            if freed is not None:
                count, size = count + 1, size + freed
    if count:
        _log.info("%s: %d kept for later and not used for %g days deleted (%.1f MB)", folder, count, days, size / 1e6)


def _delete(entry: Path, before: float) -> int | None:
    """The bytes that were freed; None for an entry that is used, or that another process deleted."""
    try:
        if entry.is_symlink() or _last_used(entry) >= before:
            return None
        descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _last_used(entry) >= before:  # it was used while the lock was waited for
                return None
            size = sum(_size(path) or 0 for path in (entry, *entry.rglob("*")))
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            return size
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _last_used(entry: Path) -> float:
    return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))


def _size(path: Path) -> int | None:
    """Bytes of a file; None for what is none, or no more."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
