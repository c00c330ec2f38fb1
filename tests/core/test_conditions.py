import json
import os
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest

from resnetrt import conditions as module
from resnetrt.board import Board
from resnetrt.conditions import conditions, source_revision, tool_versions


def test_conditions_are_json_and_say_where_they_were_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESNETRT_THREADS", "1")
    found = json.loads(json.dumps(conditions(), allow_nan=False))
    assert [name for name in found if name != "board"] == [
        "cpu",
        "cores",
        "threads",
        "system",
        "python",
        "versions",
        "revision",
    ]
    assert found["threads"] == 1
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["cpu"]


def test_a_board_says_its_power_mode(monkeypatch: pytest.MonkeyPatch):
    board = Board("NVIDIA Jetson Orin Nano", "36.4.7", "6.2.1+b38", "15W (mode 0)")
    for found, expected in ((board, asdict(board)), (None, None)):
        monkeypatch.setattr(module, "read_board", lambda found=found: found)
        assert conditions().get("board") == expected


def test_versions_are_of_installed_packages_only():
    found = tool_versions()
    assert found["numpy"] == version("numpy")
    assert found["resnetrt"] == version("resnetrt")
    assert all(found.values())


def test_revision_names_a_commit_or_is_unknown():
    found = source_revision()
    assert found is None or re.fullmatch(r"([\w.-]+-g)?[0-9a-f]{7,40}(-dirty)?|[\w.-]+(-dirty)?", found)


def test_an_installed_package_has_no_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages" / "resnetrt" / "conditions.py"))
    source_revision.cache_clear()
    assert source_revision() is None
    source_revision.cache_clear()


def test_a_checkout_without_git_has_no_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".git").mkdir()  # no repository in it
    monkeypatch.setattr(module, "__file__", str(tmp_path / "core" / "conditions.py"))
    source_revision.cache_clear()
    assert source_revision() is None
    source_revision.cache_clear()
