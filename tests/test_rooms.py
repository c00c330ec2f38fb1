"""The rooms of `export/`, `calibration/` and `benchmarks/`: about a dozen modules each, arrows only down, no circle."""

import ast
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest
from source_tree import ROOT, TOP, imported, shipped_files

# room of each folder: its level; a room imports only from rooms of a lower one
ROOMS = {
    "export": {
        "variants": 1,
        "trace": 1,
        "fold": 2,
        "cast": 2,
        "compilers": 2,
        "compilers/tensorrt": 3,
        "fp32": 3,
        "audit": 4,
        "engines": 5,
        "packages": 1,
    },
    "calibration": {"images": 1, "graph": 1, "observe": 2, "explain": 3, "quantize": 4, "imports": 5},
    "benchmarks": {
        "stats": 1,
        "measure": 1,
        "verify": 2,
        "accuracy": 2,
        "load": 2,
        "cluster": 3,
        "gpu": 3,
        "studies/network_fuzz": 3,
        "peers": 3,
        "search": 3,
        "depth": 4,
        "evaluate": 4,
        "compare": 5,
        "reports": 5,
        "deploy": 6,
        "studies": 6,
    },
}
MOST_MODULES = 12  # besides __init__ and __main__
FOLDERS = pytest.mark.parametrize("folder", ROOMS)
Modules = Mapping[str, ast.AST]  # path below its folder without .py, as in "search/run"


def read_modules(folder: str) -> Modules:
    """Every module of a top-level folder."""
    within = ROOT / folder
    paths = [path for path in shipped_files().values() if path.is_relative_to(within) and path.suffix == ".py"]
    return {
        path.relative_to(within).with_suffix("").as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
    }


def room_of(module: str) -> str:
    """The room that holds `module`; empty for one that lies in the folder itself."""
    return module.rpartition("/")[0]


def imports(modules: Modules, folder: str) -> dict[str, set[str]]:
    """For each module of `folder` those that it imports, lazily or for types too."""
    return {
        module: {target for _, name in imported(tree) if (target := _target(name, modules, folder))}
        for module, tree in modules.items()
    }


def _target(name: str, modules: Modules, folder: str) -> str | None:
    """Which of `modules` the imported `name` is, or is defined in; None for a name of elsewhere."""
    if not name.startswith(f"{TOP}.{folder}."):
        return None
    path = name.removeprefix(f"{TOP}.{folder}.").replace(".", "/")
    candidates = (path, f"{path}/__init__", room_of(path), f"{room_of(path)}/__init__")
    return next((candidate for candidate in candidates if candidate in modules), None)


def full_rooms(modules: Modules) -> list[str]:
    """The rooms that hold too many modules."""
    counted = [room_of(module) for module in modules if not module.endswith("__")]
    return sorted({f"{room}: {counted.count(room)} modules" for room in counted if counted.count(room) > MOST_MODULES})


def upward(modules: Modules, levels: Mapping[str, int], folder: str = "benchmarks") -> list[str]:
    """Imports from a room of the same level or a higher one."""
    return sorted(
        f"{module} imports {target}: level {levels[room_of(target)]} from level {levels[room_of(module)]}"
        for module, targets in imports(modules, folder).items()
        for target in targets
        if room_of(target) != room_of(module) and levels[room_of(target)] >= levels[room_of(module)]
    )


def circle(modules: Modules, folder: str = "benchmarks") -> str | None:
    """One circle of modules that import each other, or None."""
    try:
        TopologicalSorter(imports(modules, folder)).prepare()
    except CycleError as error:
        return " - ".join(error.args[1])
    return None


@FOLDERS
def test_every_room_has_a_level(folder: str):
    assert {room_of(module) for module in read_modules(folder)} - {""} == set(ROOMS[folder])


@FOLDERS
def test_the_architecture_page_names_every_room_and_its_level(folder: str):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition(f"## The rooms of `{folder}/`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d) \| `(\w[\w/]*\w)` \|", section, re.MULTILINE)
    assert {room: int(level) for level, room in rows} == ROOMS[folder]


@FOLDERS
def test_every_module_is_in_a_room(folder: str):
    assert [module for module in read_modules(folder) if not room_of(module)] == ["__init__"]


@FOLDERS
def test_no_room_is_full(folder: str):
    assert full_rooms(read_modules(folder)) == []


@FOLDERS
def test_imports_only_from_lower_rooms(folder: str):
    assert upward(read_modules(folder), ROOMS[folder], folder) == []


@FOLDERS
def test_no_circle(folder: str):
    assert circle(read_modules(folder), folder) is None


def planted(**sources: str) -> Modules:
    """Modules by path with `__` for `/`."""
    return {name.replace("__", "/"): ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    "source",
    [
        "from resnetrt.benchmarks.search.run import f",
        "from resnetrt.benchmarks.search import run",
        "import resnetrt.benchmarks.search.run",
        "def g():\n    from resnetrt.benchmarks.search.run import f",
        "if TYPE_CHECKING:\n    from resnetrt.benchmarks.search.run import F",
    ],
)
def test_a_planted_import_from_above_is_found(source: str):
    modules = planted(measure__timing=source, search__run="")
    assert upward(modules, {"measure": 1, "search": 2}) == ["measure/timing imports search/run: level 2 from level 1"]
    assert upward(modules, {"measure": 1, "search": 1}) != []
    assert upward(modules, {"measure": 2, "search": 1}) == []


def test_a_planted_circle_is_found():
    a, b = "from resnetrt.benchmarks.deploy.b import f", "def g():\n    from resnetrt.benchmarks.deploy import a"
    found = circle(planted(deploy__a=a, deploy__b=b))
    assert found is not None
    assert set(found.split(" - ")) == {"deploy/a", "deploy/b"}
    assert circle(planted(deploy__a=a, deploy__b="")) is None


def test_a_planted_full_room_is_found():
    many = {f"gpu__{index}": "" for index in range(MOST_MODULES)}
    assert full_rooms(planted(**many, gpu____init__="")) == []
    assert full_rooms(planted(**many, gpu__more="")) == [f"gpu: {MOST_MODULES + 1} modules"]
