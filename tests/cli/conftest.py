"""One quickstart shared by the tests of the commands, and a way to run the command line in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from json_schemas import check, command_of

from resnetrt.cli import run


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)

    def one_line(self, code: int) -> str:
        """The error message, after checking that it is one line, on stderr only, with exit code `code`."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert self.code == code, self.err
        assert len(lines) == 1, self.err
        assert lines[0].startswith("resnetrt: ")
        assert "Traceback" not in self.err
        assert not self.out
        return lines[0]


Run = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("RESNETRT_PROGRESS", "0")  # a slow machine would add lines about work that takes long

    def call(*args: object) -> Result:
        capfd.readouterr()
        line = tuple(str(arg) for arg in args)
        code = run([*line])
        out, err = capfd.readouterr()
        if "--json" in line and out:
            check(command_of(line), json.loads(out))
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart") / "out"
    assert run(["quickstart", "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture(scope="session")
def bundle(quickstart: Path) -> Path:
    return quickstart / "fashion_resnet20.bundle"
