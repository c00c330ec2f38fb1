"""Each folder imports only from lower floors, by absolute names; the runtime never imports torch or onnx."""

import ast
from pathlib import Path

import pytest
from source_tree import ROOT, TOP, imported, package_dirs, sources

FLOORS = {"core": 1, "models": 2, "runtime": 2, "export": 3, "calibration": 4, "benchmarks": 5, "cli": 6}
NOT_IN_RUNTIME = {"torch", "torchvision", "onnx", "onnx_ir", "onnxscript"}


def folder_of(name: str) -> str:
    """The folder that holds the imported name `resnetrt...`."""
    second = name.split(".")[1] if "." in name else ""
    return second if f"{TOP}.{second}" in package_dirs() else "core"


def fault(folder: str, name: str) -> str | None:
    """Why a file in `folder` may not import `name`, or None."""
    first = name.partition(".")[0]
    if name.startswith(".") or first in FLOORS or first == "tests":
        return f"imports {name}: imports are absolute, from {TOP}"
    if folder == "runtime" and first in NOT_IN_RUNTIME:
        return f"imports {name}: the runtime runs without {first}"
    target = folder_of(name) if first == TOP else folder
    if target != folder and FLOORS[target] >= FLOORS[folder]:
        return f"imports {name} of floor {FLOORS[target]} from floor {FLOORS[folder]}"
    return None


def faults(folder: str, source: str, label: str = "planted") -> list[str]:
    """`file:line: reason` for each import that breaks the floors."""
    names = imported(ast.parse(source))
    return [f"{label}:{line}: {reason}" for line, name in names if (reason := fault(folder, name))]


def test_every_mapped_folder_has_a_floor():
    assert {path.name for path in package_dirs().values()} == set(FLOORS)


@pytest.mark.parametrize("name", sorted(sources()))
def test_imports_only_from_lower_floors(name: str):
    path: Path = sources()[name].relative_to(ROOT)
    assert faults(path.parts[0], (ROOT / path).read_text(encoding="utf-8"), str(path)) == []


@pytest.mark.parametrize(
    ("folder", "source", "reason"),
    [
        ("core", "from resnetrt.models import definition", "floor 2 from floor 1"),
        ("core", "def f():\n    import resnetrt.cli.output", "planted:2: .*floor 6 from floor 1"),
        ("models", "from resnetrt.runtime import load", "floor 2 from floor 2"),
        ("export", "from resnetrt import calibration", "floor 4 from floor 3"),
        ("export", "from export.fold import fold", "imports export.fold.fold: imports are absolute"),
        ("export", "from .fold import fold", "imports .fold.fold: imports are absolute"),
        ("cli", "import core.errors", "imports core.errors: imports are absolute"),
        ("runtime", "def f():\n    import torch", "runs without torch"),
        ("runtime", "from onnx.numpy_helper import to_array", "runs without onnx"),
    ],
)
def test_a_planted_fault_is_found(folder: str, source: str, reason: str):
    with pytest.raises(AssertionError, match=reason):
        assert not faults(folder, source), faults(folder, source)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("cli", "from resnetrt.models import definition\nfrom resnetrt import __version__"),
        ("calibration", "from resnetrt.calibration.observe.ranges import Range\nfrom resnetrt.errors import DataError"),
        ("export", "import torch, onnx_ir"),
        ("runtime", "import onnxruntime"),
    ],
)
def test_a_lawful_import_is_no_fault(folder: str, source: str):
    assert faults(folder, source) == []
