"""Run mypy over the package as it is installed, not as the folders lie.

mypy does not follow setup.cfg's `package_dir`, so the check runs over a tree of links in build/typing/resnetrt, and it
fails if mypy read fewer files than exist: a folder that mypy skips would otherwise pass.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from source_tree import ROOT, TOP, package_dirs, sources

TREE = ROOT / "build" / "typing"


def link_tree(tree: Path, packages: dict[str, Path]) -> None:
    """Make `tree` hold exactly a link for each file and folder of the mapped packages."""
    wanted = {
        tree.joinpath(*package.split(".")) / entry.name: entry
        for package, folder in packages.items()
        if package == TOP
        for entry in folder.iterdir()
        if entry.name != "__pycache__"
    }
    wanted |= {tree.joinpath(*package.split(".")): folder for package, folder in packages.items() if package != TOP}
    top = tree / TOP
    top.mkdir(parents=True, exist_ok=True)
    for stale in set(top.iterdir()) - set(wanted):
        stale.unlink()
    for link, target in wanted.items():
        _point(link, target)


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def own_paths(output: str, tree: Path, packages: dict[str, Path]) -> str:
    """mypy's output with the links' paths replaced by those of the files."""
    for package in sorted(packages, key=len, reverse=True):
        link = tree.joinpath(*package.split(".")).relative_to(ROOT)
        output = output.replace(f"{link}/", f"{packages[package].relative_to(ROOT)}/")
    return output


def files_read(summary: str) -> int:
    """The number of source files in mypy's last line; 0 if it has none."""
    match = re.search(r"(?:found in|checked) (\d+) source files?", summary)
    return int(match[1]) if match else 0


def run_mypy(tree: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """mypy's exit status and what it printed."""
    command = [sys.executable, "-m", "mypy", "--explicit-package-bases", "-p", TOP, *arguments]
    environment = os.environ | {"MYPYPATH": str(tree)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def main(arguments: Sequence[str]) -> int:
    """Check the types; `arguments` go to mypy. Returns the exit status."""
    link_tree(TREE, package_dirs())
    expected = len(sources())
    status, output = run_mypy(TREE, arguments)
    print(own_paths(output, TREE, package_dirs()), end="")
    read = files_read(output)
    if status in {0, 1} and read < expected:
        print(f"typecheck: expected mypy to read {expected} files, it read {read}; see {TREE}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
