"""The commands and the code of the README and of docs/ are executed as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BINARY = Path(sys.executable).parent / "resnetrt"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("resnetrt ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands name: weights, calibration images, test images."""
    import torch

    from resnetrt.models import resolve

    folder = tmp_path_factory.mktemp("readme")
    torch.save(resolve("resnet50").module.state_dict(), folder / "resnet50.pth")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(folder / "photo.jpg")
    for name, count in (("calibration_images", 4), ("test_images", 3)):
        for label in ("0", "1"):
            (folder / name / label).mkdir(parents=True)
            for index in range(count):
                coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((260, 240)).save(folder / name / label / f"{index}.png")
    return folder


@pytest.mark.slow
def test_the_commands_and_the_code_of_the_readme(workplace):
    lines = commands(README)
    assert [shlex.split(line)[1] for line in lines][:2] == ["export", "calibrate"]
    for line in lines:
        argv = [str(BINARY), *shlex.split(line)[1:]]
        done = subprocess.run(argv, cwd=workplace, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    (code,) = blocks(README, "python")
    setup = "import numpy\nframes = numpy.zeros((2, 224, 224, 3), numpy.uint8)\n"
    check = "assert logits.shape == (2, 1000), logits.shape\nassert 0 < best.probability <= 1, best\n"
    subprocess.run([sys.executable, "-c", setup + code + check], cwd=workplace, check=True, timeout=120)


def test_every_command_in_the_docs_exists_with_its_options(tmp_path):
    """Options and commands only: each page's own test runs what it says."""
    from resnetrt.cli import COMMANDS, cli

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for line in commands(page.read_text()):
            words = shlex.split(line)
            assert words[1] in COMMANDS or words[1].startswith("-"), f"{page}: {line}"
            if words[1].startswith("-"):
                continue
            command = cli.get_command(None, words[1])
            if isinstance(command, click.Group):
                command = command.get_command(None, words[2])
                assert command is not None, f"{page}: {line}"
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            for word in words[2:]:
                option = word.partition("=")[0]
                assert not option.startswith("--") or option in known, f"{page}: {line}: {option}"


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in re.findall(r"`?make ([a-z -]+)`?", README):
        for target in line.split():
            if target.replace("-", "").isalpha() and target not in ("no", "all"):
                assert f"\n{target}:" in makefile, target


def test_nothing_is_said_to_have_run_on_a_gpu_without_the_record_of_it():
    heading, _, *rows = [line for line in README.splitlines() if line.startswith("|")][-9:]
    assert [cell.strip() for cell in heading.split("|")][2] == "run on a GPU"
    ran = {cells[1].strip(): cells[2].strip() for cells in (row.split("|") for row in rows)}
    assert len(ran) == 7
    if not list((ROOT / "benchmarks" / "results").rglob("gpu-check*.json")):
        assert set(ran.values()) == {"no"}
        assert "**Measured on a GPU: nothing yet.**" in README
        assert "**Nothing in this repository has been measured on a GPU yet.**" in (ROOT / "docs/gpu.md").read_text()
