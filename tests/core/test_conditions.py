import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from nvml_stub import nvml_library

from resnetrt import conditions as module
from resnetrt.board import Board
from resnetrt.conditions import conditions, source_revision, tool_versions
from resnetrt.machine import Gpu, GpuReport
from resnetrt.nvml import GpuState, read_gpu_states


def test_conditions_are_json_and_say_where_they_were_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESNETRT_THREADS", "1")
    record = json.loads(json.dumps(conditions(), allow_nan=False))
    assert [name for name in record if name not in {"board", "gpu"}] == [
        "cpu",
        "cores",
        "threads",
        "system",
        "python",
        "versions",
        "revision",
    ]
    assert record["threads"] == 1
    assert record["cores"] == len(os.sched_getaffinity(0))
    assert record["cpu"]


def test_a_board_says_its_power_mode(monkeypatch: pytest.MonkeyPatch):
    board = Board("NVIDIA Jetson Orin Nano", "36.4.7", "6.2.1+b38", "15W (mode 0)")
    for state, expected in ((board, asdict(board)), (None, None)):
        monkeypatch.setattr(module, "read_board", lambda state=state: state)
        assert conditions().get("board") == expected


class TestGpu:
    REPORT = GpuReport("580.95", "13.0", (Gpu("NVIDIA H100 80GB HBM3", 85_520_809_984, "9.0"),))

    @pytest.fixture(autouse=True)
    def _asked_anew(self) -> Iterator[None]:
        module.gpu_conditions.cache_clear()
        yield
        module.gpu_conditions.cache_clear()

    def test_it_names_gpu_driver_and_cuda_and_their_limits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        library = nvml_library(tmp_path)
        monkeypatch.setattr(module, "_NVIDIA", (str(tmp_path),))
        monkeypatch.setattr("resnetrt.conditions.read_gpus", lambda: self.REPORT)
        monkeypatch.setattr(module, "read_gpu_states", lambda: read_gpu_states(library))
        gpu = json.loads(json.dumps(conditions(), allow_nan=False))["gpu"]
        assert (gpu["driver"], gpu["cuda"]) == ("580.95", "13.0")
        assert gpu["devices"] == [
            {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85_520_809_984, "compute_capability": "9.0"}
        ]
        assert gpu["limits"][0] == {"power_limit_w": 700.0, "sm_max_mhz": 1980.0, "memory_max_mhz": 2619.0}

    def test_it_is_the_same_from_moment_to_moment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module, "_NVIDIA", (str(tmp_path),))
        monkeypatch.setattr("resnetrt.conditions.read_gpus", lambda: self.REPORT)
        states = iter([(GpuState(40.0, 80.0, 700.0, 345.0, 1980.0),), (GpuState(77.0, 650.0, 700.0, 1800.0, 1980.0),)])
        monkeypatch.setattr(module, "read_gpu_states", lambda: next(states))
        cold = conditions()["gpu"]
        module.gpu_conditions.cache_clear()
        assert conditions()["gpu"] == cold

    def test_without_one_nobody_is_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module, "_NVIDIA", (str(tmp_path / "nothing"),))
        monkeypatch.setattr("resnetrt.conditions.read_gpus", lambda: pytest.fail("a process was started"))
        assert "gpu" not in conditions()

    def test_a_driver_without_a_gpu_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module, "_NVIDIA", (str(tmp_path),))
        monkeypatch.setattr("resnetrt.conditions.read_gpus", lambda: GpuReport(detail="no device"))
        assert "gpu" not in conditions()


def test_versions_are_of_installed_packages_only():
    versions = tool_versions()
    assert versions["numpy"] == version("numpy")
    assert versions["resnetrt"] == version("resnetrt")
    assert all(versions.values())


def test_revision_names_a_commit_or_is_unknown():
    revision = source_revision()
    assert revision is None or re.fullmatch(r"([\w.-]+-g)?[0-9a-f]{7,40}(-dirty)?|[\w.-]+(-dirty)?", revision)


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
