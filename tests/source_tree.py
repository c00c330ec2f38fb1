"""The folders of this repository as setup.cfg maps them to packages; shared by the structural tests."""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOP = "resnetrt"


def read_setup_cfg() -> configparser.ConfigParser:
    """setup.cfg, with option names as written."""
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed(section: str, option: str) -> list[str]:
    """The non-empty lines of a multi-line option."""
    return [line.strip() for line in read_setup_cfg()[section][option].splitlines() if line.strip()]


def package_dirs() -> dict[str, Path]:
    """Package name to folder, from `[options] package_dir`."""
    pairs = (line.partition("=") for line in listed("options", "package_dir"))
    return {name.strip(): ROOT / folder.strip() for name, _, folder in pairs}


def shipped_files() -> dict[str, Path]:
    """Path in the wheel (`resnetrt/export/fold.py`) to file, for every file of the mapped folders.

    What was measured (`benchmarks/results/`) stays in the repository.
    """
    return {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}": path
        for package, folder in package_dirs().items()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
        if path.relative_to(folder).parts[0] != "results"
    }


def sources() -> dict[str, Path]:
    """The Python files among `shipped_files`."""
    return {name: path for name, path in shipped_files().items() if name.endswith(".py")}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, lazy imports too; a relative import starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
