"""The Python that runs here, and packages of the system that a virtual environment hides.

On a Jetson and in NVIDIA's containers TensorRT is in the system's `dist-packages`. A venv sees it only if it was made
with `--system-site-packages`, by the Python that the package is for.
"""

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from resnetrt.board import package_version, read_text

_FOLDERS = ("usr/lib/python3*/dist-packages", "usr/local/lib/python3*/dist-packages")


@dataclass(frozen=True)
class Interpreter:
    """Version and folder of the running Python; `system_packages`: whether it also imports those of the system."""

    version: str
    prefix: str
    venv: bool
    system_packages: bool


@dataclass(frozen=True)
class SystemPackage:
    """A package in the system's folder; `python` is the version that it is for, None if for any Python 3."""

    name: str
    version: str | None
    folder: str
    python: str | None


def read_interpreter(prefix: Path | None = None) -> Interpreter:
    """The Python that runs this; `prefix` is the folder of its environment."""
    prefix = prefix or Path(sys.prefix)
    written = read_text(prefix / "pyvenv.cfg")
    sees = re.search(r"^include-system-site-packages\s*=\s*true", written, re.MULTILINE | re.IGNORECASE)
    return Interpreter(platform.python_version(), str(prefix), bool(written), not written or bool(sees))


def find_system_package(name: str, root: Path = Path("/"), deb: str | None = None) -> SystemPackage | None:
    """The package `name` in a folder of the system; its version also from the Debian package `deb`."""
    for folder in sorted(path for pattern in _FOLDERS for path in root.glob(pattern)):
        if (folder / name).is_dir():
            written = next(iter(sorted(folder.glob(f"{name}-*.dist-info"))), None)
            version = written.name.removesuffix(".dist-info").partition("-")[2] if written else None
            if version is None and deb:
                version = package_version(deb, root)
            python = re.fullmatch(r"python(3\.\d+)", folder.parent.name)
            return SystemPackage(name, version, str(folder), python[1] if python else None)
    return None


def hidden(package: SystemPackage, interpreter: Interpreter) -> tuple[str, str] | None:
    """Why `interpreter` does not import `package`, and what mends it; None if it should."""
    named = f"{package.name} {package.version or ''}".strip() + f" of the system ({package.folder})"
    python = interpreter.version.rpartition(".")[0]
    if package.python not in (None, python):
        fix = f"make distclean && make PYTHON=python{package.python} VENV_FLAGS=--system-site-packages install"
        return f"{named} is for Python {package.python}, this is Python {python}", fix
    if not interpreter.system_packages:
        fix = f"python{python} -m venv --system-site-packages {interpreter.prefix}"  # keeps what is installed there
        return f"{named} is hidden from this venv, {interpreter.prefix}", fix
    return None
