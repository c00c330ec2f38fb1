"""Frames of a real video file; what is no video, and a machine without OpenCV."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnetrt.errors import BackendMissing, DataError
from resnetrt.runtime.predict.video import camera_path, is_video, open_video

needs_opencv = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import cv2"], capture_output=True, check=False).returncode != 0,
    reason="OpenCV is not installed: pip install 'resnetrt[video]'",
)
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))  # RGB


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Three frames of 64x48, red, green and blue."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'resnetrt[video]'")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for colour in COLOURS:
        writer.write(np.full((48, 64, 3), colour[::-1], np.uint8))
    writer.release()
    return path


@needs_opencv
def test_a_video_gives_its_frames_in_rgb(clip: Path):
    frames = list(open_video(clip))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    for frame, colour in zip(frames, COLOURS, strict=True):
        np.testing.assert_allclose(frame.reshape(-1, 3).mean(0), colour, atol=6)


@needs_opencv
def test_what_is_no_video_is_told_in_one_line(tmp_path: Path):
    """In a process of its own: the libraries behind OpenCV print, unless they are told not to before they start."""
    (tmp_path / "x.mp4").write_bytes(b"no video" * 100)
    code = """
import pathlib, sys
from resnetrt.errors import DataError
from resnetrt.runtime.predict.video import open_video
try:
    open_video(pathlib.Path(sys.argv[1]))
except DataError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "x.mp4: expected a camera or a video file, found something that OpenCV can't open\n" in done.stdout
    assert done.stderr == ""


def test_a_camera_that_is_not_there_is_told_first():
    with pytest.raises(DataError, match="video /dev/video97: expected a camera or a video file, found nothing"):
        open_video(camera_path("97"))


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "x.mp4").touch()
    with pytest.raises(BackendMissing, match=r"not installed; run: pip install 'resnetrt\[video\]'"):
        open_video(tmp_path / "x.mp4")


def test_an_opencv_that_lacks_a_library_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    (tmp_path / "x.mp4").touch()
    with pytest.raises(BackendMissing, match=r"opencv-python-headless \(cv2\) does not import \(libGL.so.1.*\[video\]"):
        open_video(tmp_path / "x.mp4")


def test_videos_are_known_by_their_names():
    assert is_video(Path("a/B.MP4"))
    assert not is_video(Path("photo.jpg"))
    assert camera_path("0") == Path("/dev/video0")
    assert camera_path("/dev/video2") == Path("/dev/video2")
