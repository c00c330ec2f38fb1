"""Replacing files and directories so that a crash leaves the old or the new, never a mixture."""

import contextlib
import ctypes
import glob
import itertools
import os
import re
import shutil
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_ASIDE = ".old"

_counter = itertools.count()
_issued: set[str] = set()


def staging_path(path: Path) -> Path:
    """A new hidden sibling of `path`, its name given to no other caller of this or any running process."""
    name = f".{path.name}.staging-{os.getpid()}-{next(_counter)}"
    _issued.add(name)
    return path.parent / name


def remove_stale_staging(path: Path) -> None:
    """Delete siblings that processes which no longer run left behind."""
    restore_interrupted(path)
    for sibling in _stale_siblings(path):
        if sibling.is_dir() and not sibling.is_symlink():
            shutil.rmtree(sibling, ignore_errors=True)
        else:
            sibling.unlink(missing_ok=True)


def restore_interrupted(path: Path) -> None:
    """Put a directory back that a process put aside in `exchange_directories` before it was killed."""
    if not path.exists():
        for sibling in _stale_siblings(path):
            if sibling.name.endswith(_ASIDE):
                sibling.rename(path)
                return


def _stale_siblings(path: Path) -> list[Path]:
    """Staging siblings of `path` whose process ended; of our own pid, those that this process did not make."""
    found = []
    for sibling in path.parent.glob(f".{glob.escape(path.name)}.staging-*"):
        number = re.search(r"\.staging-(\d+)", sibling.name[len(path.name) + 1 :], re.ASCII)
        pid = int(number[1]) if number else 0
        ours = pid == os.getpid() and sibling.name.removesuffix(_ASIDE) in _issued
        if not ours and (pid == os.getpid() or not _is_running(pid)):
            found.append(sibling)
    return found


def exchange_directories(new: Path, path: Path) -> None:
    """Swap two directories atomically; afterwards `new` holds the old content. Falls back to two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
    with contextlib.suppress(AttributeError):  # a C library without renameat2
        if libc.renameat2(*arguments) == 0:
            return
    aside = new.with_name(new.name + _ASIDE)
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    aside.rename(new)


def write_file(path: Path, blob: bytes) -> None:
    """Replace one file: written beside it, flushed, renamed. Parents are created; nothing is left on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_staging(path)
    staging = staging_path(path)
    try:
        with staging.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):  # a read-only place; its own error is the one to show
            staging.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
