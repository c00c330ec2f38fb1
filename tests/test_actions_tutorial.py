"""The workflow of docs/tutorials/github-actions.md is run step by step as a runner does: no terminal, no HOME, piped.

The actions (`uses:`) are not run: checkouts are made by git, and Python is the one that runs the tests. `gh` is a
script that takes what the real one takes, and refuses a comment that GitHub would.
"""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bare_venv import link_packages
from source_tree import listed
from test_packaging import build_wheel, copy_tree
from test_workstation_tutorials import ACTIONS, blocks

WORKFLOW = ".github/workflows/engines.yml"
ALWAYS = "${{ !cancelled() }}"
GH = """#!/bin/bash -e
[ "$*" = "pr comment $PULL_REQUEST --edit-last --create-if-none --body-file report.md" ]
[ -n "$GH_TOKEN" ] && [ "$(wc -m < report.md)" -le 65536 ]
cp report.md "$RUNNER_TEMP/comment.md"
"""


def write_files(page: str, to: Path) -> None:
    for _, name, text in blocks(page):
        if name:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_text(text, encoding="utf-8")


@dataclass
class Runner:
    """Runs the `run:` steps of the workflow in `workspace`, with what a runner sets and nothing else."""

    workspace: Path
    temp: Path
    job: dict[str, Any]
    path: list[str] = field(default_factory=list)

    def run(self, name: str, **more: str) -> tuple[int, str]:
        """The exit code of the step `name`, and what it printed."""
        (step,) = [step for step in self.job["steps"] if step.get("name") == name]
        script, printed, added = (self.temp / name for name in ("step.sh", "printed.txt", "path.txt"))
        script.write_text(step["run"], encoding="utf-8")
        added.touch()
        env = {
            "PATH": ":".join([*self.path, str(self.temp / "tools"), "/usr/bin", "/bin"]),
            **{"CI": "true", "GITHUB_PATH": str(added), "GITHUB_STEP_SUMMARY": str(self.temp / "summary.md")},
            **{"RUNNER_TEMP": str(self.temp), **self.job.get("env", {}), **step.get("env", {}), **more},
        }
        command = ["bash", "-e", str(script)]  # GitHub's, where no shell is named
        with printed.open("w") as out:
            code = subprocess.Popen(
                command, cwd=self.workspace, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            ).wait(600)
        self.path = [*reversed(added.read_text().split()), *self.path]
        added.unlink()
        return code, printed.read_text()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Two checkouts of a repository with the tutorial's files, and the tools that a runner has."""
    yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra dev")
    place = tmp_path_factory.mktemp("actions")
    origin, workspace, temp = place / "origin", place / "work", place / "temp"
    origin.mkdir()
    write_files("own-checkpoint", origin)
    write_files(ACTIONS, origin)
    for script in ("images.py", "train.py"):
        subprocess.run([sys.executable, script], cwd=origin, check=True, timeout=300)
    build_wheel(copy_tree(tmp_path_factory.mktemp("tree")), origin / "wheels")
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "base"]):
        subprocess.run(["git", *words], cwd=origin, check=True)
    for to in (workspace, workspace / "base"):
        subprocess.run(["git", "clone", "-q", str(origin), str(to)], check=True)
    (temp / "tools").mkdir(parents=True)
    (temp / "tools" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (temp / "tools" / "gh").write_text(GH)
    (temp / "tools" / "gh").chmod(0o755)
    runner = Runner(workspace, temp, yaml.safe_load((workspace / WORKFLOW).read_text())["jobs"]["gate"])
    _install(runner)
    return runner


def _install(runner: Runner) -> None:
    """The step itself for the wheel; what the wheel requires is linked from here instead of downloaded."""
    code, printed = runner.run("Install", PIP_NO_DEPS="1", PIP_NO_INDEX="1")
    assert code == 0, printed
    (site,) = runner.workspace.glob(".venv/lib/python*/site-packages")
    assert (site / "resnetrt").is_dir()
    link_packages([*listed("options", "install_requires"), *listed("options.extras_require", "torch")], site)


@pytest.mark.slow
def test_the_steps_of_the_workflow(runner: Runner):
    assert "HOME" not in runner.job["env"]
    for name in ("Build the engines of both sides", "Accuracy", "Latency", "Comment"):
        code, printed = runner.run(name)
        assert code == 0, f"{name}\n{printed}"
    assert ET.parse(runner.workspace / "gate.xml").getroot().tag == "testsuites"
    record = json.loads((runner.workspace / "latency" / "bench.json").read_text())
    assert record["regression"]["verdict"] in ("PASS", "INCONCLUSIVE")
    comment = (runner.temp / "comment.md").read_text()
    assert "### Accuracy gate: PASS" in comment
    assert "### Latency against the base: exit code" in comment
    assert "finds from" in comment
    assert (runner.temp / "summary.md").read_text() == comment

    _too_few_images_warn(runner)
    _a_missing_folder_fails(runner)


def _too_few_images_warn(runner: Runner) -> None:
    images = runner.workspace / "images"
    images.rename(runner.workspace / "all")
    for folder in (runner.workspace / "all" / "test").iterdir():
        few = images / "test" / folder.name
        few.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:4]:
            shutil.copy(path, few)
    code, printed = runner.run("Accuracy")
    assert code == 0
    assert "::warning::accuracy" in printed


def _a_missing_folder_fails(runner: Runner) -> None:
    shutil.rmtree(runner.workspace / "images")
    code, printed = runner.run("Accuracy")
    assert code == 4, printed
    assert "images/test" in printed


def test_steps_that_must_run_after_a_failure_say_so():
    yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra dev")
    (text,) = [text for _, name, text in blocks(ACTIONS) if name == WORKFLOW]
    steps = yaml.safe_load(text)["jobs"]["gate"]["steps"]
    after = [step for step in steps if step.get("name") in ("Latency", "Comment") or "upload" in step.get("uses", "")]
    assert len(after) == 3
    assert {step["if"] for step in after} == {ALWAYS}
    assert not any("${{" in step.get("run", "") for step in steps)  # a name of a branch could be a command
