import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bundle
from PIL import Image

from resnetrt.export.engines.compile import compile_variant

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "camera.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a compiled bundle and pictures."""
    folder = tmp_path_factory.mktemp("camera")
    compile_variant(tiny_bundle.make_bundle(folder / "tiny.bundle"), "fp32", "onnxruntime")
    (folder / "pictures").mkdir()
    for index, frame in enumerate(tiny_bundle.frames(3)):
        Image.fromarray(frame).resize((40, 30)).save(folder / "pictures" / f"{index}.png")
    return folder


def play(place, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLE, place / "tiny.bundle", place / "pictures", *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("overload", ["drop-oldest", "reject"])
def test_every_frame_is_accounted_for(place, overload):
    done = play(place, "--fps", "100", "--seconds", "0.5", "--streams", "2", "--overload", overload)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"stream \d: (\d+) frames, (\d+) deadlines missed \((.*)\)", done.stdout)
    assert len(lines) == 2
    for ticks, misses, text in lines:
        counts = {name: int(number) for number, name in (item.split() for item in text.split(", "))}
        assert int(ticks) == 50
        assert counts["done"] + int(misses) == 50
        assert sum(counts.values()) == 50


def test_an_overload_is_bounded_and_counted(place):
    done = play(place, "--fps", "100000", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    (ticks, misses) = map(int, re.search(r"(\d+) frames, (\d+) deadlines missed", done.stdout).groups())
    assert ticks in (10_000, 10_001)  # the last one falls on the end
    assert misses > 0


def test_a_folder_without_images_is_told(place, tmp_path):
    command = [sys.executable, EXAMPLE, place / "tiny.bundle", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "expected .jpg or .png images, found none" in done.stderr
