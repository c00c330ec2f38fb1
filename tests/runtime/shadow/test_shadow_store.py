"""Alarms on disk: within the quota, never in the way of serving, and nobody else's files touched."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from resnetrt.errors import UsageError
from resnetrt.runtime.shadow.store import AlarmStore

TENSORS = {"0/input": np.arange(3000, dtype=np.float32).reshape(3, 1000).T}  # not contiguous


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_an_alarm_is_read_back(tmp_path: Path):
    path = AlarmStore(tmp_path / "alarms", 1 << 20).save(TENSORS, {"reason": "r"})
    record = json.loads(path.read_text())
    assert record == {"reason": "r", "tensors": path.with_suffix(".safetensors").name}
    np.testing.assert_array_equal(load_file(path.parent / record["tensors"])["0/input"], TENSORS["0/input"])


def test_the_oldest_make_room_and_other_files_stay(tmp_path: Path):
    quota = 40_000
    (tmp_path / "notes.txt").write_bytes(b"x" * 100_000)
    store = AlarmStore(tmp_path, quota)
    paths = [store.save(TENSORS, {"number": number}) for number in range(6)]
    left = sorted(path.name for path in tmp_path.glob("alarm-*.json"))
    assert left == sorted(path.name for path in paths[-3:])
    assert size_of(tmp_path) <= quota + 100_000
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert (store.saved, store.failures) == (6, 0)


def test_numbers_go_on_in_a_new_process(tmp_path: Path):
    first = AlarmStore(tmp_path, 1 << 20).save(TENSORS, {})
    second = AlarmStore(tmp_path, 1 << 20).save(TENSORS, {})
    assert first.name < second.name


def test_an_alarm_larger_than_the_quota_is_not_saved_and_removes_nothing(tmp_path: Path):
    kept = AlarmStore(tmp_path, 1 << 20).save(TENSORS, {})
    store = AlarmStore(tmp_path, 1000)
    assert store.save(TENSORS, {}) is None
    assert kept.exists()
    assert (store.saved, store.failures) == (0, 1)


def test_a_full_disk_is_logged_and_counted_and_leaves_nothing_half_written(
    full_disk: Path, caplog: pytest.LogCaptureFixture
):
    store = AlarmStore(full_disk, 1 << 30)
    big = {"0/input": np.zeros(300_000, np.uint8)}
    with caplog.at_level(logging.WARNING):
        assert store.save(big, {}) is None
    assert "can't be saved" in caplog.text
    assert list(full_disk.iterdir()) == []
    assert (store.saved, store.failures) == (0, 1)
    assert store.save(TENSORS, {}) is not None


def test_a_place_that_is_a_file_is_logged_and_counted(tmp_path: Path):
    (tmp_path / "alarms").write_text("")
    store = AlarmStore(tmp_path / "alarms", 1 << 20)
    assert store.save(TENSORS, {}) is None
    assert store.failures == 1


def test_a_quota_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="quota"):
        AlarmStore(tmp_path, 0)
