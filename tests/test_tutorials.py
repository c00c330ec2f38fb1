"""The tutorials for devices are executed: what the workstation does here, the rest where no torch and onnx are.

A smaller network with random weights stands for ResNet-50; what needs TensorRT and its GPU is left out.
"""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bare_venv import make_bare_venv, run_bare
from PIL import Image
from source_tree import ROOT, listed
from test_packaging import build_wheel, copy_tree

TUTORIALS = [ROOT / "docs" / "tutorials" / f"{name}.md" for name in ("jetson", "raspberry-pi")]
CLASSES = 1000
NEEDS_A_GPU = ("--backend", "tensorrt")


def steps(text: str) -> list[tuple[str, list[str]]]:
    """Where each command is run, and its words."""
    blocks = re.findall(r"```sh (workstation|device)\n(.*?)```", text, re.DOTALL)
    return [(place, shlex.split(line)) for place, block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel = build_wheel(copy_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel"))
    return make_bare_venv(tmp_path_factory.mktemp("bare") / "venv", wheel, listed("options", "install_requires"))


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with what a tutorial names: weights, class names, images, a photo."""
    import torch

    from resnetrt.models import resolve

    torch.manual_seed(0)
    torch.save(resolve("resnet18").module.state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "labels.txt").write_text("".join(f"thing {index}\n" for index in range(CLASSES)))
    rng = np.random.default_rng(0)
    for name, classes, count in (("calibration", [0], 24), ("validation", [3, 70, 999], 12)):
        for label in classes:
            folder = tmp_path / name / f"thing {label}"
            folder.mkdir(parents=True)
            for index in range(count):
                coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((260, 240)).save(folder / f"{index}.png")
    Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    return tmp_path


def test_there_is_one_for_a_jetson_and_one_for_a_raspberry_pi():
    for path in TUTORIALS:
        text = path.read_text()
        assert re.search(r"Not run on a (Jetson|Pi) yet", text)
        for target in re.findall(r"\]\(([^)#:]+)", text):
            assert (path.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_commands_of(page: Path, workplace: Path, python: Path):
    run = []
    for place, words in steps(page.read_text()):
        if words[0] != "resnetrt" or NEEDS_A_GPU in pairwise(words):
            continue
        smaller = [word.replace("resnet50", "resnet18") for word in words[1:]]
        done = _run_here(smaller, workplace) if place == "workstation" else run_bare(python, *smaller, cwd=workplace)
        assert done.returncode == 0, f"{place}: {shlex.join(smaller)}\n{done.stdout}{done.stderr}"
        run.append(words[1])
    assert run[-1] == "report"
    assert {"deploy", "package", "compile", "verify", "bench", "predict"} <= set(run)


def _run_here(words: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "resnetrt.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=900)
