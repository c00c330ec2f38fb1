"""System shared memory: tensors in POSIX shared memory objects of this machine, by registered region.

Regions are read and written with `pread` and `pwrite`, never mapped: a client that shrinks its object after the
registration would otherwise end this process with SIGBUS.
"""

import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.runtime.serving.faults import Kind, RequestFault, invalid

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/?[A-Za-z0-9_.\-]{1,255}")
_MOST_REGIONS = 256


@dataclass(frozen=True)
class Region:
    """A registered part of a shared memory object; `file` is its descriptor."""

    name: str
    key: str
    offset: int
    byte_size: int
    file: int

    def to_json(self) -> dict[str, Any]:
        """The V2 protocol's record of this region."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class SharedMemory:
    """The registered regions. `allowed` is false where clients may be on other machines."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region. Raises `RequestFault` for an unknown object, one that is too small, or a name in use."""
        if not self._allowed:
            raise RequestFault(Kind.UNSUPPORTED, "shared memory is offered only by a server that listens on loopback")
        if not name or not _KEY.fullmatch(key) or key.strip("/") in (".", ".."):
            raise invalid(f"shared memory: expected a name, and a key such as /frames, found {name!r} and {key!r}")
        if offset < 0 or byte_size < 1:
            raise invalid(f"shared memory {name}: expected offset >= 0 and byte_size >= 1, found {offset}, {byte_size}")
        with self._lock:
            if name in self._regions:
                raise RequestFault(
                    Kind.EXISTS, f"shared memory region {name!r} already in manager; unregister it first"
                )
            if len(self._regions) >= _MOST_REGIONS:
                raise invalid(f"shared memory: expected at most {_MOST_REGIONS} regions; unregister some")
            file = _open(key, offset + byte_size)
            self._regions[name] = Region(name, key, offset, byte_size, file)

    def unregister(self, name: str) -> None:
        """Close a region, or all regions without a name; an unknown name is ignored."""
        with self._lock:
            for gone in [name] if name else list(self._regions):
                region = self._regions.pop(gone, None)
                if region is not None:
                    os.close(region.file)

    def status(self, name: str = "") -> list[Region]:
        """The regions, or the named one. Raises `RequestFault` if there is none of that name."""
        with self._lock:
            if name and name not in self._regions:
                raise invalid(f"unable to find system shared memory region: {name!r}")
            return [self._regions[name]] if name else list(self._regions.values())

    def read(self, name: str, offset: int, byte_size: int) -> bytearray:
        """Copy a part of a region. Raises `RequestFault` if it is not all there."""
        with self._lock:
            region = self._checked(name, offset, byte_size)
            buffer = bytearray(byte_size)
            count = os.preadv(region.file, [buffer], region.offset + offset)
        if count != byte_size:
            raise invalid(f"shared memory region {name!r}: expected {byte_size} bytes at {offset}, found {count}")
        return buffer

    def check(self, name: str, offset: int, limit: int, size_bytes: int) -> None:
        """Raise `RequestFault` unless the region has `limit` bytes at `offset`, and those hold an output's."""
        with self._lock:
            self._checked(name, offset, limit, size_bytes)

    def write(self, name: str, offset: int, limit: int, blob: bytes | memoryview) -> None:
        """Copy `blob` to a part of a region. Raises `RequestFault` as `check` does, or if the object is smaller now."""
        with self._lock:
            region = self._checked(name, offset, limit, len(blob))
            if os.fstat(region.file).st_size < region.offset + offset + len(blob):
                raise invalid(f"shared memory region {name!r}: it was made smaller since it was registered")
            os.pwrite(region.file, blob, region.offset + offset)

    def close(self) -> None:
        """Close every region."""
        self.unregister("")

    def _checked(self, name: str, offset: int, byte_size: int, needed: int = 0) -> Region:
        if needed > byte_size:
            text = f"shared memory region {name!r}: the output has {needed} bytes, the request gives {byte_size}"
            raise invalid(text)
        region = self._regions.get(name)
        if region is None:
            raise RequestFault(Kind.NOT_FOUND, f"unable to find shared memory region: {name!r}")
        if offset + byte_size > region.byte_size:
            raise invalid(
                f"shared memory region {name!r}: expected a part of its {region.byte_size} bytes, "
                f"found {byte_size} at {offset}"
            )
        return region


def _open(key: str, least_bytes: int) -> int:
    try:
        file = os.open(_FOLDER / key.lstrip("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise invalid(f"unable to open shared memory object {key!r}: {error.strerror}") from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size < least_bytes:
        os.close(file)
        raise invalid(f"shared memory object {key!r}: expected {least_bytes} bytes at least, found {status.st_size}")
    return file
