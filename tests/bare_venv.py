"""A virtual environment with the wheel and chosen packages of this one, as on a device; made without a network."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def make_bare_venv(place: Path, wheel: zipfile.ZipFile, packages: Iterable[str]) -> Path:
    """The Python of a new venv at `place` with `wheel`, and links to `packages` and to all that they need."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    wheel.extractall(site)
    link_packages(packages, site)
    return place / "bin" / "python"


def link_packages(packages: Iterable[str], site: Path) -> None:
    """Link `packages` and all that they need into `site`."""
    for name in _closure(packages):
        link_package(name, site)


def link_package(name: str, site: Path) -> None:
    """Link what distribution `name` has installed here into `site`."""
    package = distribution(name)
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        source = Path(str(package.locate_file(top))).absolute()
        if source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)


def run_bare(python: Path, *words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """`resnetrt WORDS` there, without the settings of this process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RESNETRT"))}
    command = [str(python), "-m", "resnetrt.cli", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600)


def _closure(packages: Iterable[str]) -> set[str]:
    """`packages` and what they require on this machine, without extras."""
    names: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = re.split(r"[\[<>=!~; (]", waiting.pop())[0].lower().replace("_", "-")
        if name in names:
            continue
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:  # for another Python or system
            continue
        names.add(name)
        waiting += [line for line in needed if "extra ==" not in line]
    return names
