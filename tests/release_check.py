"""What a release must pass before it is published: `make release-check`. Everything lies in build/release.

Wheel and sdist are built as `python -m build` does it; the README must render on an index page; both are installed into
new environments, the wheel runs the quickstart outside the checkout, and the sdist's base install, which has neither
torch nor onnx, runs an engine of it.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

from source_tree import ROOT, read_setup_cfg

PLACE = ROOT / "build" / "release"
LIMIT_S = 1800  # against hanging only
EXTRAS = [
    "torch",
    "openvino",
    "report",
    *(["rtx"] if (sys.platform, platform.machine()) == ("linux", "x86_64") else []),
]
ENGINE = "onnxruntime-int8-cpu"


class Refused(Exception):
    """The release is not as it should be."""


def say(line: str) -> None:
    print(f"release-check: {line}", flush=True)


def run(*command: str | Path) -> str:
    """The standard output of a command that must succeed, run outside the checkout and without its settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RESNETRT", "VIRTUAL"))}
    done = subprocess.run(command, cwd=PLACE, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise Refused(f"{' '.join(map(str, command))}: exit code {done.returncode}: {last}")
    return done.stdout


def version() -> str:
    """That of setup.cfg, which the changelog must have as its newest version, with a date that has come."""
    wanted = read_setup_cfg()["metadata"]["version"]
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = re.fullmatch(r"(\S+) \((\d{4}-\d{2}-\d{2})\)", heading[1] if heading else "")
    if newest is None or newest[1] != wanted or date.fromisoformat(newest[2]) > date.today():
        there = "none" if heading is None else heading[1]
        raise Refused(f"CHANGELOG.md: expected {wanted} with its date as the newest version, found {there}")
    return wanted


def new_venv(name: str, *packages: str | Path) -> Path:
    """The Python of a new environment with `packages` at the versions of constraints.txt."""
    folder = PLACE / name
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    options = ("--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", *options, *packages)
    run(python, "-m", "pip", "check")
    return python


def build() -> tuple[Path, Path]:
    """The wheel and the sdist."""
    run(sys.executable, "-m", "build", "--outdir", PLACE / "dist", ROOT)
    (wheel,), (sdist,) = (PLACE / "dist").glob("*.whl"), (PLACE / "dist").glob("*.tar.gz")
    return wheel, sdist


def check() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    wanted = version()
    wheel, sdist = build()
    say(f"{wheel.name} {wheel.stat().st_size / 1e6:.1f} MB, {sdist.name} {sdist.stat().st_size / 1e6:.1f} MB")
    tools = new_venv("tools", "twine", "readme_renderer[md]")
    run(tools, "-m", "twine", "check", "--strict", wheel, sdist)
    say("the README renders on an index page; its relative links lead nowhere there")

    full = new_venv("wheel", f"resnetrt[{','.join(EXTRAS)}] @ {wheel.as_uri()}")
    if wanted not in run(full.with_name("resnetrt"), "--version"):
        raise Refused(f"the wheel: expected version {wanted}")
    run(full.with_name("resnetrt"), "quickstart", "--out", PLACE / "quickstart")
    engines = [row["engine"] for row in json.loads((PLACE / "quickstart" / "report.json").read_text())["summary"]]
    say(f"quickstart from the wheel: {', '.join(engines)}")

    base = new_venv("sdist", sdist)
    (bundle,) = (PLACE / "quickstart").glob("*.bundle")
    told = json.loads(run(base.with_name("resnetrt"), "verify", bundle, "--engine", ENGINE, "--json"))
    verdicts = {row["engine"]: row["verdict"] for row in told["engines"]}
    if verdicts != {ENGINE: "PASS"}:
        raise Refused(f"the sdist's base install: expected {ENGINE} to PASS, found {verdicts}")
    say(f"verify from the sdist, without torch and onnx: {ENGINE} PASS, against {told['reference']}")
    say(f"resnetrt {wanted} can be published")


if __name__ == "__main__":
    try:
        check()
    except Refused as error:
        sys.exit(f"release-check: {error}")
