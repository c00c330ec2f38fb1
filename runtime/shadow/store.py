"""Alarms on disk, within a quota: tensors in `alarm-<time>-<number>.safetensors`, and a `.json` that describes them."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save as save_safetensors

from resnetrt.atomic import write_file
from resnetrt.errors import UsageError
from resnetrt.manifest import canonical_json

_log = logging.getLogger("resnetrt.runtime.shadow")
_OURS = re.compile(r"alarm-\d{8}T\d{6}Z-\d{6}\.(safetensors|json)")


class AlarmStore:
    """A directory of alarms, at most `quota_bytes` in all; the oldest are removed for a new one.

    Only files that it named are ever counted or removed. `saved` and `failures` count what became of each alarm.
    """

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        if quota_bytes < 1:
            raise UsageError(f"shadow quota: expected a positive number of bytes, found {quota_bytes}")
        self.directory = directory
        self.quota_bytes = quota_bytes
        self.saved = 0
        self.failures = 0

    def save(self, tensors: dict[str, npt.NDArray[Any]], record: dict[str, Any]) -> Path | None:
        """Write one alarm and return the path of its JSON; None, logged and counted, if it can't be written."""
        whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        try:
            path = self._write(bytes(save_safetensors(whole)), record)
        except OSError as error:  # a full or read-only disk must not hurt serving
            self.failures += 1
            _log.warning("shadow check: the alarm can't be saved in %s: %s", self.directory, error)
            return None
        self.saved += path is not None
        self.failures += path is None
        return path

    def _write(self, blob: bytes, record: dict[str, Any]) -> Path | None:
        path = self.directory / f"{self._next_stem()}.json"
        text = canonical_json(record | {"tensors": path.with_suffix(".safetensors").name})
        if not self._make_room(len(blob) + len(text)):
            _log.warning(
                "shadow check: an alarm of %d bytes exceeds the quota of %d", len(blob) + len(text), self.quota_bytes
            )
            return None
        try:
            write_file(path.with_suffix(".safetensors"), blob)
            write_file(path, text)
        except OSError:
            path.with_suffix(".safetensors").unlink(missing_ok=True)
            raise
        return path

    def _next_stem(self) -> str:
        number = 1 + max((int(path.stem.rpartition("-")[2]) for path in self._files()), default=0)
        return f"alarm-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{number % 1_000_000:06d}"

    def _files(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return [path for path in self.directory.iterdir() if _OURS.fullmatch(path.name)]

    def _make_room(self, size: int) -> bool:
        """Remove the oldest alarms until `size` more bytes fit; false, and nothing removed, if they never would."""
        if size > self.quota_bytes:
            return False
        files = sorted(self._files(), key=lambda path: path.name)
        total = sum(path.stat().st_size for path in files)
        while files and total + size > self.quota_bytes:
            stem = files[0].stem
            for path in [path for path in files if path.stem == stem]:
                total -= path.stat().st_size
                path.unlink()
                files.remove(path)
        return True
