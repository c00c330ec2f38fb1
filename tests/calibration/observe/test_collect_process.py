"""Calibration as a process: what Ctrl-C leaves, and that memory does not grow with the number of images."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from resnetrt.bundle import Bundle
from resnetrt.calibration.observe.collect import calibrate_bundle

_PEAK = """
import json, sys
from pathlib import Path
from resnetrt.bundle import Bundle
from resnetrt.calibration.observe.collect import calibrate_bundle

record = calibrate_bundle(Bundle.open(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([len(record.image_hashes), int(line.split()[1])]))
"""


def random_images(path: Path, count: int) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    np.savez(path, x=frames, y=np.arange(count) % 10)
    return path


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def peak_kilobytes(bundle: Bundle, data: Path, samples: int) -> int:
    command = [sys.executable, "-c", _PEAK, bundle.path, data, samples]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=300)
    counted, peak = json.loads(done.stdout)
    assert counted == samples
    return int(peak)


def test_ctrl_c_leaves_the_bundle_and_its_record(fashion_bundle: Bundle, tmp_path: Path):
    calibrate_bundle(fashion_bundle, "fashion_calib", 16)
    before = files_in(fashion_bundle.path)
    data = random_images(tmp_path / "many.npz", 60_000)
    command = [sys.executable, "-m", "resnetrt.cli", "calibrate", fashion_bundle.path, "--data", data]
    command += ["--samples", 60_000]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        time.sleep(8)  # it needs a minute or more
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "resnetrt: interrupted"
    assert "Traceback" not in errors
    assert files_in(fashion_bundle.path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fashion.bundle", "many.npz"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_images(fashion_bundle: Bundle, tmp_path: Path):
    data = random_images(tmp_path / "many.npz", 1500)
    few, many = (peak_kilobytes(fashion_bundle, data, samples) for samples in (100, 1500))
    one_batch_more = 16 * 4 * 1_000_000 / 1024  # a record that kept them would need 1.4 GB
    assert many < few + one_batch_more
