"""Checks that do what a broken GPU library may do; their processes import this module."""

import atexit
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from resnetrt.errors import BackendMissing, CheckFailed

Measured = dict[str, Any]


def fine(*arguments: Any) -> Measured:
    return {"arguments": list(map(str, arguments))}


def which_device() -> Measured:
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "RESNETRT_DEVICE")}


def segfault() -> Measured:
    print("about to read address 0", flush=True)
    ctypes.string_at(0)
    return {}


def hang(pid_file: str) -> Measured:
    child = subprocess.Popen(["sleep", "600"])
    Path(pid_file).write_text(str(child.pid))
    time.sleep(600)
    return {}


def leave() -> Measured:
    print("leaving", flush=True)
    os._exit(0)


def leave_with(code: int) -> Measured:
    sys.exit(code)


def abort_at_exit() -> Measured:
    """As pycuda with a context that was not popped."""
    atexit.register(os.abort)
    return {"value": 1}


def fail() -> Measured:
    raise CheckFailed("planted fault")


def missing() -> Measured:
    raise BackendMissing("planted gap")


def read_record(path: str) -> Measured:
    """What the record on disk holds while this check runs."""
    record = json.loads(Path(path).read_text())
    return {"complete": record["complete"], "names": [check["name"] for check in record["checks"]]}


def names_in(folder: Path) -> Measured:
    (folder / "spoiled").write_text("what a check leaves behind")
    return {"names": sorted(entry.name for entry in folder.iterdir())}
