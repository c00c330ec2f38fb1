"""The rooms of `export/`, `calibration/` and `benchmarks/`: about a dozen modules each, arrows only down, no circle."""

import ast
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import architecture_map
import pytest
from room_rules import ROOMS, Modules, imports, read_modules, room_of
from source_tree import ROOT

MOST_MODULES = 12  # besides __init__ and __main__
FOLDERS = pytest.mark.parametrize("folder", ROOMS)


def full_rooms(modules: Modules) -> list[str]:
    """The rooms that hold too many modules."""
    counted = [room_of(module) for module in modules if not module.endswith("__")]
    return sorted({f"{room}: {counted.count(room)} modules" for room in counted if counted.count(room) > MOST_MODULES})


def upward(modules: Modules, levels: Mapping[str, int], folder: str = "benchmarks") -> list[str]:
    """Imports from a room of the same level or a higher one."""
    return sorted(
        f"{module} imports {target}: level {levels[room_of(target)]} from level {levels[room_of(module)]}"
        for module, targets in imports(modules, folder).items()
        if room_of(module)  # the folder itself lists what users may import
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


def test_the_picture_shows_the_code_as_it_is():
    assert architecture_map.PICTURE.read_text(encoding="utf-8") == architecture_map.picture(), (
        "draw it again: python tests/architecture_map.py"
    )


def test_an_arrow_that_follows_from_others_is_not_drawn():
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert architecture_map.essential(arrows) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}


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
    way = circle(planted(deploy__a=a, deploy__b=b))
    assert way is not None
    assert set(way.split(" - ")) == {"deploy/a", "deploy/b"}
    assert circle(planted(deploy__a=a, deploy__b="")) is None


def test_a_planted_full_room_is_found():
    many = {f"gpu__{index}": "" for index in range(MOST_MODULES)}
    assert full_rooms(planted(**many, gpu____init__="")) == []
    assert full_rooms(planted(**many, gpu__more="")) == [f"gpu: {MOST_MODULES + 1} modules"]


def changes_table() -> list[str]:
    """The files of each row of the table "Where a change goes"."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Where a change goes")[2]
    return [line.split("|")[2] for line in section.splitlines() if line.startswith("| a") and line.count("|") == 3]


@pytest.mark.parametrize("files", changes_table())
def test_the_files_that_a_change_goes_to_exist(files: str):
    """A name without a folder is a file in one of the folders that its row names."""
    words = [word for word in re.findall(r"`([\w./]+)`", files) if "/" in word or word.endswith((".py", ".cfg"))]
    paths = [word.replace("NAME", "onnxruntime").replace("COMMAND", "export") for word in words]
    folders = [place if place.is_dir() else place.parent for place in (ROOT / path for path in paths if "/" in path)]
    assert paths
    assert [path for path in paths if not any((place / path).exists() for place in (ROOT, *folders))] == []
