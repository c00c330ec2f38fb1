"""Calibration on a Ray cluster: the same record as a local run, also when a worker dies in the middle."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from ray_actors import ray_actors

from resnetrt.benchmarks.accuracy.content import batch_hashes
from resnetrt.benchmarks.cluster.calibrate import CalibrationJob, Observer, runner_on_ray
from resnetrt.benchmarks.cluster.evaluate import Origin
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Dataset
from resnetrt.calibration.observe.collect import calibrate_bundle, open_some
from resnetrt.calibration.observe.probe import Probe
from resnetrt.calibration.observe.seen import Seen
from resnetrt.calibration_record import FILE
from resnetrt.errors import DataError
from resnetrt.preprocess import Preprocessing

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
IMAGES, SAMPLES = 3000, 2800


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A tiny bundle and images."""
    tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    np.savez(tmp_path / "data.npz", x=tiny_bundle.frames(IMAGES, 4), y=np.arange(IMAGES) % tiny_bundle.CLASSES)
    return tmp_path


def record_of(place: Path, runner: Any = None) -> bytes:
    bundle = Bundle.open(place / "tiny.bundle")
    calibrate_bundle(bundle, str(place / "data.npz"), SAMPLES, 3, runner=runner)
    return Bundle.open(place / "tiny.bundle").file(FILE).read_bytes()


def job_for(place: Path, size: int = 16) -> CalibrationJob:
    """What a driver sends that sees the images of `place` now."""
    bundle = Bundle.open(place / "tiny.bundle")
    dataset = open_some(str(place / "data.npz"), bundle.manifest.preprocessing, SAMPLES, 3)
    origin = Origin.of(bundle, len(dataset), size, batch_hashes(dataset, size))
    return CalibrationJob(origin, str(place / "data.npz"), SAMPLES, 3)


def test_an_observers_answers_make_the_same_record(place: Path):
    def runner(_probe: Probe, dataset: Dataset, _recipe: Preprocessing, size: int) -> Iterable[Seen]:
        observer = Observer(job_for(place, size))
        for start in range(0, len(dataset), size):
            answer = observer({"start": np.array([start])})
            assert answer["error"][0] == ""
            yield Seen.from_bytes(answer["part"][0])

    assert record_of(place, runner) == record_of(place)


def test_other_images_or_another_bundle_are_an_error(place: Path):
    rows = {"start": np.array([0])}
    job = job_for(place)
    other = CalibrationJob(replace(job.origin, fp32_sha256="another hash"), job.data, SAMPLES, 3)
    stored = np.load(place / "data.npz")
    for x, y in ((255 - stored["x"], stored["y"]), (stored["x"][:-1], stored["y"][:-1])):
        np.savez(place / "data.npz", x=x, y=y)  # other pixels of the same names and labels; one fewer
        assert "other images lie at this path" in Observer(job)(rows)["error"][0]
    assert "another one lies at this path" in Observer(other)(rows)["error"][0]


def test_without_ray_it_is_one_line_and_exit_code_4(place: Path):
    code = "import sys; sys.modules['ray'] = None; from resnetrt.cli import run; sys.exit(run(sys.argv[1:]))"
    argv = ["calibrate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--ray", "auto"]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "pip install 'resnetrt[ray]'" in done.stderr
    assert FILE not in Bundle.open(place / "tiny.bundle").manifest.files


@with_ray
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "worker"])
def test_two_nodes_make_the_same_record_whatever_dies(place: Path, ray_cluster: Any, fault: str):
    local = record_of(place)
    seen: list[int] = []
    runner = runner_on_ray(Bundle.open(place / "tiny.bundle"), str(place / "data.npz"), SAMPLES, 3, "auto")

    def watched(*arguments: Any) -> Iterable[Seen]:
        for batch in runner(*arguments):
            time.sleep(0.01)
            seen.append(len(batch.hashes))
            yield batch

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not seen:
            time.sleep(0.001)
        os.kill(ray_actors("Observer")[0], signal.SIGKILL)

    thread = threading.Thread(target=kill if fault == "worker" else lambda: None)
    thread.start()
    assert record_of(place, watched) == local
    thread.join(120)
    assert sum(seen) == SAMPLES


@with_ray
@pytest.mark.slow
def test_an_actors_error_is_the_drivers_error(place: Path, ray_cluster: Any):
    blank = place / "blank.npz"
    np.savez(blank, x=np.zeros((40, 16, 16, 3), np.uint8))
    runner = runner_on_ray(Bundle.open(place / "tiny.bundle"), str(place / "data.npz"), SAMPLES, 3, "auto")
    with pytest.raises(DataError, match="other images lie at this path on another node"):
        calibrate_bundle(Bundle.open(place / "tiny.bundle"), str(blank), 40, runner=runner)
