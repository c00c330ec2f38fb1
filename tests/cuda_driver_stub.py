"""A libcuda.so.1 that answers as a given driver would, compiled here; for processes that load it themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = 0; return 0; }
"""


def driver_folder(folder: Path, version: int, init: int = 0) -> str:
    """A folder for LD_LIBRARY_PATH: its driver serves CUDA `version` (12020 is 12.2), and `cuInit` returns `init`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a stub of the driver")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda.c").write_text(_SOURCE)
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-DVERSION={version}", f"-DINIT={init}"]
    subprocess.run([compiler, *flags, "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=True)
    return str(folder)
