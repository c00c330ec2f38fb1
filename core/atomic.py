"""Replacing files and directories so that a crash leaves the old or the new, never a mixture.

New content is written beside its final place, under a hidden name. Meanwhile the writer holds a shared lock (flock) on
the folder; the kernel releases the lock when the process ends, however it ends. A process that gets the exclusive lock
therefore knows that every hidden name there was left behind by a dead writer. A pid in the name would not tell:
containers share volumes, but not pids.
"""

import contextlib
import ctypes
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from resnetrt.forks import PROCESS

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_ASIDE = ".old"


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A hidden sibling of `path` that nobody else uses, for the caller to make; what is there at the end is deleted.

    Leftovers of killed processes are deleted first. The folder must exist.
    """
    with _folder_of(path) as folder:
        if _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _restore(path)
            for sibling in _stale_siblings(path):
                _delete(sibling)
        _lock(folder, fcntl.LOCK_SH)
        sibling = path.with_name(f".{path.name}.staging-x{secrets.token_hex(8)}")
        forks = PROCESS.forks
        try:
            yield sibling
        finally:
            if forks == PROCESS.forks:  # else the process that this one was forked from still uses it
                _delete(sibling)
                _lock(folder, fcntl.LOCK_UN)  # closing would not unlock while a forked process has the folder open too


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Name the file in an `OSError` of a write, such as that of a full disk, which names none itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = what
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclude other processes that do the same with `folder`, until the end of the block; where locks work."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a power cut can't undo what was renamed there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems flush no folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore_interrupted(path: Path) -> None:
    """Put a directory back that a killed process had moved aside in `exchange_directories`."""
    if not path.exists():
        with _folder_of(path) as folder:
            if _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _restore(path)


@contextlib.contextmanager
def _folder_of(path: Path) -> Iterator[int | None]:
    """A descriptor of the folder of `path`, None if it can't be opened; not passed on to programs that are run."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)


def _lock(folder: int | None, operation: int) -> bool:
    """Whether the lock was taken. Without locks (NFS locks no folders) it never is, and nothing is tidied there."""
    if folder is None:
        return False
    try:
        fcntl.flock(folder, operation)
    except OSError:
        return False
    return True


def _restore(path: Path) -> None:
    aside = next((sibling for sibling in _stale_siblings(path) if sibling.name.endswith(_ASIDE)), None)
    if aside is not None and not path.exists():
        aside.rename(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # a read-only place; the caller's own error is the one to show
            path.unlink(missing_ok=True)


def _stale_siblings(path: Path) -> list[Path]:
    """Staging siblings of `path`, if nobody holds the folder's lock.

    Earlier versions held no lock and put their pid into the name: siblings of a running process are left alone. This
    process uses no such names, so a sibling with this process's pid is a leftover.
    """
    stale = []
    for sibling in path.parent.glob(f".{glob.escape(path.name)}.staging-*"):
        number = re.search(r"\.staging-(\d+)", sibling.name[len(path.name) + 1 :], re.ASCII)
        if number is None or int(number[1]) == os.getpid() or not _is_running(int(number[1])):
            stale.append(sibling)
    return stale


def exchange_directories(new: Path, path: Path) -> None:
    """Swap two directories atomically; afterwards `new` holds the old content. Falls back to two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
    with contextlib.suppress(AttributeError):  # a C library without renameat2
        if libc.renameat2(*arguments) == 0:
            flush_folder(path.parent)
            return
    aside = new.with_name(new.name + _ASIDE)
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    aside.rename(new)
    flush_folder(path.parent)


def write_file(path: Path, blob: bytes) -> None:
    """Replace one file: written beside it, flushed, renamed. Parents are created; nothing is left on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging(path) as staged:
        with naming(str(path)), staged.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    flush_folder(path.parent)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
