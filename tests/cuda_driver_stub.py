"""A libcuda.so.1 that answers as a given driver would, compiled here; for processes that load it themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
int cuDeviceGetAttribute(int *value, int key, int device) { *value = key == 75 ? 8 : 6; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "GPU of a stub", size); return 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, device, 16); return 0; }
"""


def driver_folder(folder: Path, version: int, init: int = 0, devices: int = 0) -> str:
    """A folder for LD_LIBRARY_PATH with a driver of so many `devices`.

    It serves CUDA `version` (12020 is 12.2), and `cuInit` returns `init`.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a stub of the driver")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda.c").write_text(_SOURCE)
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-DVERSION={version}", f"-DINIT={init}"]
    flags.append(f"-DDEVICES={devices}")
    subprocess.run([compiler, *flags, "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=True)
    return str(folder)


def ask(code: str, folder: str) -> str:
    """What `code` prints in a process that loads the driver in `folder`."""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"LD_LIBRARY_PATH": folder}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
