"""The Python versions that resnetrt says it runs on, and those of them that this machine has."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from source_tree import listed

_ASK = "import sys, venv, ensurepip; print(sys.version_info[:2])"


def declared() -> list[str]:
    """The versions of the classifiers, oldest first: `3.10` and so on."""
    matches = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in listed("metadata", "classifiers")
    )
    return [match[1] for match in matches if match]


def find_python(version: str) -> str | None:
    """An interpreter of this version that can make venvs: on the path, or installed by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    expected = str(tuple(map(int, version.split("."))))
    for candidate in filter(None, (shutil.which(f"python{version}"), *map(str, installed))):
        # pyenv's shim of a version that is not selected is on the path and only says so
        done = subprocess.run([candidate, "-c", _ASK], capture_output=True, text=True, check=False)
        if done.stdout.strip() == expected:
            return candidate
    return None
