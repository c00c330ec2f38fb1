"""The code of docs/shadow-check.md and the package commands of docs/clusters.md run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.export.engines.compile import compile_variant

DOCS = Path(__file__).resolve().parent.parent / "docs"
BINARY = Path(sys.executable).parent / "resnetrt"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a bundle under the name that the pages use."""
    bundle = tiny_bundle.make_bundle(tmp_path / "r50.bundle")
    compile_variant(bundle, "int8.cpu", "openvino")
    compile_variant(bundle, "int8.onnxruntime", "onnxruntime")
    return tmp_path


def test_the_code_of_the_shadow_check(place: Path):
    setup = "import tiny_bundle\nbatch = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(2, 9))\n"
    code = blocks("shadow-check.md", "python")[0].replace("rate=0.001", "rate=1.0")
    check = "assert check.flush(60)\nstate = check.state()\n"
    check += "assert (state.copy_compared, state.compared, state.grouped) == (2, 1, 1)\ncheck.close()\n"
    environment = os.environ | {"PYTHONPATH": str(Path(tiny_bundle.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", setup + code + check], cwd=place, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_package_commands(place: Path):
    pytest.importorskip("tritonclient.grpc", reason="the extra serve")
    lines = [line for block in blocks("clusters.md", "sh") for line in block.splitlines() if " package " in line]
    assert len(lines) == 2
    for line in lines:
        argv = [str(BINARY), *shlex.split(line)[1:]]
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (place / "model_repository" / "tiny" / "config.pbtxt").is_file()
    assert (place / "kserve" / "inferenceservice.yaml").is_file()
