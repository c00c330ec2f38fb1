"""Which rooms a folder has, on which level each is, and what its modules import."""

import ast
from collections.abc import Mapping

from source_tree import ROOT, TOP, imported, shipped_files

# room of each folder: its level; a room imports only from rooms of a lower one
ROOMS = {
    "export": {
        "trace": 1,
        "variants": 2,
        "fold": 2,
        "cast": 3,
        "compilers": 3,
        "compilers/tensorrt": 4,
        "fp32": 4,
        "audit": 5,
        "engines": 6,
        "packages": 7,
    },
    "calibration": {"images": 1, "graph": 1, "observe": 2, "explain": 3, "quantize": 4, "imports": 5},
    "benchmarks": {
        "apart": 1,
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
