"""What is in the repository is in the wheel, and what setup.cfg says is true."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from source_tree import ROOT, TOP, imported, listed, package_dirs, read_setup_cfg, shipped_files, sources

from resnetrt.parts import PARTS

EXTRAS = "options.extras_require"
ROOT_FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(tree: Path, out: Path) -> zipfile.ZipFile:
    """A wheel of `tree`, built with what is installed here."""
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", str(out), str(tree)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def copy_tree(to: Path) -> Path:
    """The files that a build reads, without what earlier builds left beside them."""
    for name in ROOT_FILES:
        shutil.copy(ROOT / name, to / name)
    for folder in package_dirs().values():
        shutil.copytree(folder, to / folder.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return to


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build_wheel(copy_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of what git knows, unpacked."""
    tree, out = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("sdist")
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(tree)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(out, filter="data")
    return next(path for path in out.iterdir() if path.is_dir())


def tracked() -> list[str]:
    """What git knows, of this checkout; skipped where it is none."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def content(wheel: zipfile.ZipFile) -> set[str]:
    """The paths of the wheel's files, without its own records."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def record(wheel: zipfile.ZipFile, name: str) -> bytes:
    """The content of a file in the wheel's dist-info folder."""
    return wheel.read(next(path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")))


def metadata(wheel: zipfile.ZipFile) -> Message:
    """The wheel's METADATA."""
    return message_from_bytes(record(wheel, "METADATA"))


def test_packages_are_the_folders_that_hold_python_files():
    folders = {name.rpartition("/")[0].replace("/", ".") for name in sources()}
    assert sorted(listed("options", "packages")) == sorted(folders)


def test_every_package_folder_has_an_init_file():
    missing = {name.rpartition("/")[0] for name in shipped_files()} - {
        name.rpartition("/")[0] for name in sources() if name.endswith("/__init__.py")
    }
    assert missing == set()


def test_the_wheel_holds_every_file_of_the_mapped_folders_and_nothing_else(wheel: zipfile.ZipFile):
    assert sorted(content(wheel)) == sorted(shipped_files())


def test_the_source_archive_holds_the_repository(sdist: Path):
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    made = {name for name in held if name == "PKG-INFO" or name.startswith(f"{TOP}.egg-info/")}
    assert sorted(held - made) == sorted(tracked())


def test_a_wheel_of_the_source_archive_is_whole(sdist: Path, tmp_path: Path):
    assert sorted(content(build_wheel(sdist, tmp_path))) == sorted(shipped_files())


def test_a_forgotten_package_is_seen(tmp_path: Path):
    tree = copy_tree(tmp_path)
    (tree / "export" / "forgotten").mkdir()
    (tree / "export" / "forgotten" / "__init__.py").touch()
    assert f"{TOP}/export/forgotten/__init__.py" not in content(build_wheel(tree, tmp_path / "out"))


def test_metadata_names_the_licence_and_the_python(wheel: zipfile.ZipFile):
    fields = metadata(wheel)
    assert (fields["Name"], fields["License-Expression"], fields["Requires-Python"]) == (TOP, "MIT", ">=3.10")
    assert b"MIT License" in record(wheel, "licenses/LICENSE")


def test_the_script_is_installed(wheel: zipfile.ZipFile):
    assert "resnetrt = resnetrt.cli:main" in record(wheel, "entry_points.txt").decode()


def test_the_command_line_needs_only_the_core_dependencies(wheel: zipfile.ZipFile):
    needed = {
        line.partition(">")[0] for line in metadata(wheel).get_all("Requires-Dist") or () if "extra ==" not in line
    }
    assert needed == {"click", "numpy", "onnxruntime", "pillow", "rich", "safetensors"}


def test_what_doctor_tells_to_install_exists():
    extras = read_setup_cfg()["options.extras_require"]
    named = {part.install.split("[")[1].split("]")[0] for part in PARTS if "[" in part.install}
    assert named <= set(extras)
    assert {"torch", "export", "openvino", "gpu", "rtx", "serve", "bench", "report", "ray", "peers", "dev"} <= set(
        extras
    )


def test_what_is_imported_is_declared():
    """By the package itself, not only by one that needs it, too."""
    extras = [line for extra in read_setup_cfg()["options.extras_require"] for line in listed(EXTRAS, extra)]
    declared = {plain(line) for line in [*listed("options", "install_requires"), *extras]}
    providers = packages_distributions()
    needed = {
        name.partition(".")[0] for path in sources().values() for _, name in imported(ast.parse(path.read_text()))
    } - {*sys.stdlib_module_names, TOP}
    missing = {name for name in needed if declared.isdisjoint(map(plain, providers.get(name, [name])))}
    # of these every build has its own name (tensorrt_cu13), or one of several packages brings them
    assert missing - {"cuda", "pycuda", "tensorrt", "tensorrt_dispatch", "tensorrt_lean", "tensorrt_rtx"} == set()


def test_each_cuda_has_an_extra_of_its_own():
    """What one of them installs is of one CUDA; `constraints.txt` must not choose the other one."""
    for cuda, bindings in (("12", "cuda-bindings>=12.9,<13"), ("13", "cuda-bindings>=13")):
        tensorrt, pins = listed(EXTRAS, f"gpu-cu{cuda}")
        assert plain(tensorrt) == f"tensorrt-cu{cuda}"
        assert pins == bindings
    pinned = {plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert pinned.isdisjoint({"cuda-bindings", "tensorrt", "tensorrt-cu12", "tensorrt-cu13"})


def plain(requirement: str) -> str:
    """The normalised name of a requirement."""
    return re.split(r"[\[<>=!; ]", requirement)[0].lower().replace("_", "-")


def test_constraints_pin_every_requirement_of_the_test_environment():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [*listed("options", "install_requires")]
    for extra in ("torch", "export", "openvino", "report", "serve", "bench", "rtx", "dev", "ray", "peers"):
        wanted += listed(EXTRAS, extra)
    assert set(map(plain, wanted)) - set(map(plain, pinned)) == set()


@pytest.mark.parametrize(
    ("machine", "words", "installed"),
    [
        ("Linux x86_64", [], "torch,openvino,report,rtx"),
        ("Linux x86_64", ["RTX="], "torch,openvino,report"),
        ("Linux aarch64", [], "torch,openvino,report"),  # it has no wheel of TensorRT-RTX
    ],
)
def test_make_quickstart_installs_tensorrt_rtx_where_its_wheel_is_unless_told_otherwise(
    tmp_path: Path, machine: str, words: list[str], installed: str
):
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs make")
    (tmp_path / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (tmp_path / "uname").chmod(0o755)
    command = [make, "-n", "quickstart", f"VENV={tmp_path / 'new'}", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RTX"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert f"--editable '.[{installed}]'\n" in done.stdout
