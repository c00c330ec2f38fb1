"""The runtime works on an emulated arm64."""

import subprocess
import sys

import pytest
from source_tree import ROOT


@pytest.mark.slow
def test_the_runtime_works_on_an_emulated_arm64():
    command = [sys.executable, str(ROOT / "tests" / "arm64_check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 4:
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
