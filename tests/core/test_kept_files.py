"""What is kept for later processes is bounded, and nothing that a process uses is deleted."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnetrt import kept_files
from resnetrt.kept_files import KeptFiles, prune, read_kept_files, use

OLD = time.time() - 91 * 86400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An old file and folder, a new file, an old folder with a new file, and a lock."""
    for name in ("old.kernels", "new.kernels", ".x.lock", "old/engine", "mixed/engine"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    for name in ("old.kernels", ".x.lock", "old/engine", "old", "mixed"):
        os.utime(tmp_path / name, (OLD, OLD))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_not_used_for_long_is_deleted(folder: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "resnetrt"):
        prune(folder)
        prune(folder)
    assert names(folder) == [".x.lock", "mixed", "new.kernels"]
    (line,) = caplog.messages
    assert "2 kept for later and not used for 90 days deleted (0.0 MB)" in line


def test_what_is_used_again_stays(folder: Path):
    assert use(folder / "old.kernels")
    assert use(folder / "old")
    prune(folder)
    assert {"old", "old.kernels"} <= set(names(folder))


def test_what_a_process_uses_stays_however_long_it_runs(folder: Path):
    code = (
        "import sys, pathlib; from resnetrt.kept_files import use\n"
        "print([use(pathlib.Path(name)) for name in sys.argv[1:]], flush=True); sys.stdin.read()"
    )
    entries = [folder / "old.kernels", folder / "old"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, entries)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "[True, True]\n"
        for entry in entries:
            os.utime(entry, (OLD, OLD))  # so long ago
        prune(folder)
        assert {"old", "old.kernels"} <= set(names(folder))
        other.communicate("", 60)
    prune(folder)
    assert names(folder) == [".x.lock", "mixed", "new.kernels"]


def test_what_is_not_there_can_not_be_used(folder: Path):
    assert not use(folder / "none")


def test_a_file_that_was_replaced_is_used_as_the_new_one(folder: Path):
    path = folder / "new.kernels"
    assert use(path)
    (folder / "next").write_bytes(b"6")
    (folder / "next").replace(path)
    assert use(path)
    assert os.path.samestat(os.fstat(kept_files._held[path]), path.stat())


def test_links_and_folders_that_are_not_there_are_left_alone(folder: Path, tmp_path: Path):
    (folder / "link").symlink_to(folder / "old.kernels")
    os.utime(folder / "link", (OLD, OLD), follow_symlinks=False)
    prune(folder)
    assert "link" in names(folder)
    prune(folder / "none")


def test_two_processes_at_once(tmp_path: Path):
    for index in range(200):
        (tmp_path / f"{index}.kernels").write_bytes(b"1")
        os.utime(tmp_path / f"{index}.kernels", (OLD, OLD))
    code = "import sys, pathlib; from resnetrt.kept_files import prune; prune(pathlib.Path(sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert names(tmp_path) == []


def test_the_doctor_tells_place_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_kept_files() == KeptFiles(str(tmp_path / ".cache/resnetrt"), 0, 0)
    (tmp_path / ".cache/resnetrt/tensorrt_rtx").mkdir(parents=True)
    (tmp_path / ".cache/resnetrt/tensorrt_rtx/a.kernels").write_bytes(b"12345")
    assert read_kept_files() == KeptFiles(str(tmp_path / ".cache/resnetrt"), 1, 5)
