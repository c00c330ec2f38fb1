"""python -m resnetrt.benchmarks.gpu, or from a copy of the source that is not installed: python benchmarks/gpu."""

import configparser
import os
import sys
import tempfile
from pathlib import Path


def link_package(root: Path, folder: Path) -> None:
    """Make the package `resnetrt` of the source tree `root` importable from `folder`, as setup.cfg maps its folders."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    lines = filter(None, setup["options"]["package_dir"].splitlines())
    places = {package.strip(): place.strip() for package, _, place in (line.partition("=") for line in lines)}
    top = min(places, key=len)
    (folder / top).mkdir()
    for entry in (root / places.pop(top)).iterdir():
        (folder / top / entry.name).symlink_to(entry)
    for package, place in places.items():
        folder.joinpath(*package.split(".")).symlink_to(root / place)


def _run() -> int:
    from resnetrt.benchmarks.gpu.run import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    if __package__:
        sys.exit(_run())
    with tempfile.TemporaryDirectory(prefix="resnetrt-source-") as linked:
        link_package(Path(__file__).resolve().parents[2], Path(linked))
        sys.path[0] = linked
        # for the processes of the checks
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [linked, os.environ.get("PYTHONPATH")]))
        sys.exit(_run())
