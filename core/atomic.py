"""Replacing files and directories so that a crash leaves the old or the new, never a mixture."""

import contextlib
import ctypes
import os
import shutil
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def staging_path(path: Path) -> Path:
    """A hidden sibling of `path` that belongs to this process."""
    return path.parent / f".{path.name}.staging-{os.getpid()}"


def remove_stale_staging(path: Path) -> None:
    """Delete siblings that processes which no longer run left behind."""
    for sibling in path.parent.glob(f".{path.name}.staging-*"):
        pid = sibling.name.rpartition("-")[2]
        if not pid.isdigit() or int(pid) == os.getpid() or not _is_running(int(pid)):
            shutil.rmtree(sibling, ignore_errors=True)


def exchange_directories(new: Path, path: Path) -> None:
    """Swap two directories atomically; afterwards `new` holds the old content. Falls back to two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
    with contextlib.suppress(AttributeError):  # a C library without renameat2
        if libc.renameat2(*arguments) == 0:
            return
    aside = new.with_name(new.name + ".old")
    path.rename(aside)
    new.rename(path)
    aside.rename(new)


def write_file(path: Path, blob: bytes) -> None:
    """Replace one file: written beside it, flushed, renamed. Parents are created; nothing is left on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_path(path)
    try:
        with staging.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
