"""The tutorials for a workstation are executed as they stand, block by block, each in an empty folder."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from source_tree import ROOT
from test_tutorials import TUTORIALS as DEVICE_TUTORIALS

LEAVES = {
    "own-checkpoint": ["out/report.md", "serve.log"],
    "imagenet": ["r50/report.md", "r50/outcomes.safetensors"],
    "depth-figure": ["depth/depth-batch1.svg", "depth/int8.svg", "depth/bench.html", "figure.pdf"],
}
ACTIONS = "github-actions"  # test_actions_tutorial.py runs its workflow as a runner does


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The fenced blocks of a tutorial: their language, the file they belong into, and their text."""
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", LEAVES)
def test_every_block_of_the_tutorial(page: str, tmp_path: Path):
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, name, text in blocks(page):
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
            continue
        if language == "text":  # needs a network, and says so
            continue
        command = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
        with (tmp_path / "printed.txt").open("w+") as printed:  # no pipe: a server that was left behind would hold it
            done = subprocess.Popen(
                [*command, text], cwd=tmp_path, env=env, stdout=printed, stderr=printed, start_new_session=True
            )
            try:
                code = done.wait(timeout=900)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(done.pid, signal.SIGKILL)
            printed.seek(0)
            assert code == 0, f"{text}\n{printed.read()}"
    for path in LEAVES[page]:
        assert (tmp_path / path).is_file()


def test_every_tutorial_is_executed_somewhere():
    pages = {path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md")}
    assert pages == {ACTIONS, *LEAVES, *(path.stem for path in DEVICE_TUTORIALS)}
