"""What Python 3.10 does not have is found without running it: syntax by ruff, calls of the library by mypy."""

import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

SYNTAX = {
    "except_star": "try:\n    pass\nexcept* OSError:\n    pass\n",
    "starred_index": "x = (1,)\ny = {(1,): 2}[*x]\n",
    "type_statement": "type X = int\n",
    "type_parameters": "def f[T](x: T) -> T:\n    return x\n",
    "nested_quotes": "x = {'a': 1}\ny = f'{x['a']}'\n",
}
CALLS = {
    "typing_self": "from typing import Self\n",
    "assert_never": "from typing import assert_never\n",
    "str_enum": "from enum import StrEnum\n",
    "toml": "import tomllib\n",
    "utc": "from datetime import UTC\n",
    "timeout": "import asyncio\nx = asyncio.timeout(1)\n",
    "task_group": "import asyncio\nx = asyncio.TaskGroup()\n",
    "file_digest": "import hashlib\nx = hashlib.file_digest\n",
    "chdir": "import contextlib\nx = contextlib.chdir('/')\n",
    "batched": "import itertools\nx = itertools.batched('ab', 1)\n",
    "exception_group": "x = ExceptionGroup('', [OSError()])\n",
    "add_note": "OSError().add_note('')\n",
    "walk": "from pathlib import Path\nx = Path().walk()\n",
    "argument": "import warnings\nx = warnings.catch_warnings(action='ignore')\n",
    "rmtree": "import shutil\nshutil.rmtree('x', onexc=None)\n",
}


def plant(folder: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)


def names_in(output: str) -> set[str]:
    """The planted files that errors are about."""
    return {line.partition(".py:")[0] for line in output.splitlines() if ".py:" in line and "note:" not in line}


def report(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    plant(tmp_path, {"plain": "x = 1\n"})
    return tmp_path


def test_newer_syntax_is_found(planted: Path):
    plant(planted, SYNTAX)
    config = str(ROOT / "pyproject.toml")
    text = report(
        planted, "ruff", "check", "--config", config, "--ignore=ALL", "--output-format=concise", "--no-cache", "."
    )
    assert names_in(text) == set(SYNTAX)


def test_newer_calls_are_found(planted: Path):
    plant(planted, CALLS)
    config = f"--config-file={ROOT / 'setup.cfg'}"
    assert names_in(report(planted, "mypy", config, f"--cache-dir={planted / 'cache'}", ".")) == set(CALLS)
