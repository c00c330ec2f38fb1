"""The commands of the pages on the gate, on deploy, on INT8 and on the search are executed as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(sys.executable).parent / "resnetrt"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["accuracy-gate.md", "deploy.md", "quantize.md", "search.md"])
def test_the_commands_of_the_page(page, tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    assert lines
    for line in lines:
        argv = [str(BINARY), *shlex.split(line)[1:]]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    written = {
        "accuracy-gate.md": ["old.safetensors", "gate.xml", "gate.md", "flips.png"],
        "deploy.md": ["all/report.md", "auto/report.md"],
        "quantize.md": ["layers.png", "fashion.cache"],
        "search.md": ["front.png"],
    }
    assert all((tmp_path / name).exists() for name in written[page])
