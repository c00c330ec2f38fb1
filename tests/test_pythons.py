"""A bare venv of every Python that the classifiers name runs the shipped network from the wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_bundle import FP32, INT8, add_engines, write_photo
from interpreters import declared, find_python
from source_tree import ROOT, listed, read_setup_cfg
from test_packaging import build_wheel, copy_tree

DECLARED = declared()
LIMIT_S = 600  # against hanging only
BARE = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_wheel(copy_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel"))
    return Path(str(built.filename))


@pytest.fixture(scope="module")
def device(exported_fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and a photo."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copytree(exported_fashion, folder / "fashion.bundle")
    add_engines(folder / "fashion.bundle")
    write_photo(folder / "photo.png")
    return folder


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=BARE, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bare_venv(version: str, place: Path) -> Path:
    """The programs' folder of a new venv; skips where it can't be had."""
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} with venv on this machine")
    run(python, "-m", "venv", "--without-pip", place, cwd=place.parent)
    return place / "bin"


def install(programs: Path, wheel: Path, constraints: Path) -> None:
    """The wheel and what it needs; skips where no packages can be had."""
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install"]
    command = [*pip, "--quiet", "--no-compile", "--only-binary", ":all:", "-c", constraints, wheel]
    done = subprocess.run(command, env=BARE, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if re.search(r"NewConnectionError|Temporary failure in name resolution", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr


def use(programs: Path, device: Path) -> dict[str, object]:
    """Run the commands of a device; what `on_device.py` found."""
    record = json.loads(
        run(programs / "python", ROOT / "tests" / "on_device.py", "fashion.bundle", "photo.png", FP32, INT8, cwd=device)
    )
    assert "Usage: resnetrt" in run(programs / "resnetrt", "--help", cwd=device)
    assert json.loads(run(programs / "resnetrt", "doctor", "--json", cwd=device))["problems"] == []
    assert INT8 in run(programs / "resnetrt", "inspect", "fashion.bundle", cwd=device)
    return record


@pytest.mark.slow
@pytest.mark.parametrize("version", DECLARED)
def test_the_wheel_runs_on(version: str, wheel: Path, device: Path, tmp_path: Path):
    programs = bare_venv(version, tmp_path / "venv")
    install(programs, wheel, ROOT / "constraints.txt")
    check(use(programs, device), version)


@pytest.mark.slow
def test_the_lowest_versions_that_setup_cfg_allows_run_on_the_oldest_python(wheel: Path, device: Path, tmp_path: Path):
    programs = bare_venv(DECLARED[0], tmp_path / "venv")
    lowest = tmp_path / "lowest.txt"
    lowest.write_text("\n".join(listed("options", "install_requires")).replace(">=", "=="))
    install(programs, wheel, lowest)
    check(use(programs, device), DECLARED[0])


def check(record: dict[str, object], version: str) -> None:
    engines = record["engines"]
    assert isinstance(engines, dict)
    assert str(record["python"]).startswith(f"{version}.")
    assert engines[FP32]["sqnr_db"] > 100
    assert engines[INT8]["sqnr_db"] > 30
    assert all(len(engine["seen"]) == 4 and len(set(engine["seen"])) == 1 for engine in engines.values())


def test_every_place_that_names_the_oldest_python_agrees():
    oldest = DECLARED[0]
    assert read_setup_cfg()["options"]["python_requires"] == f">={oldest}"
    assert read_setup_cfg()["mypy"]["python_version"] == oldest
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()
