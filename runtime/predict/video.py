"""Frames of a camera or a video file, decoded by OpenCV."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.errors import DataError
from resnetrt.parts import import_part
from resnetrt.preprocess import UInt8Array

VIDEO_SUFFIXES = (".avi", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def is_video(path: Path) -> bool:
    """Whether `path` is a camera's device, or a video file by its suffix."""
    return path.is_char_device() or path.suffix.lower() in VIDEO_SUFFIXES


def camera_path(text: str) -> Path:
    """The device of a camera that is given by its number, or `text` as a path."""
    return Path(f"/dev/video{text}") if text.isdecimal() else Path(text)


def open_video(source: Path) -> Iterator[UInt8Array]:
    """Open a camera's device or a video file; its frames are new uint8 RGB `(H, W, 3)`. A camera's never end.

    Close the iterator to free the camera. Raises `BackendMissing` without OpenCV, `DataError` for what is not there or
    no video, and later for a camera that gives no more frames.
    """
    if not source.exists():
        present = ", ".join(map(str, sorted(Path("/dev").glob("video*")))) or "none"
        raise DataError(f"video {source}: expected a camera or a video file, found nothing; cameras here: {present}")
    if not os.access(source, os.R_OK):
        raise DataError(f"video {source}: no right to read it; a camera's users are in the group video")
    cv2 = _import_opencv()
    return _frames(_capture(cv2, source), source)


def _import_opencv() -> Any:
    for name, value in (("OPENCV_LOG_LEVEL", "SILENT"), ("OPENCV_FFMPEG_LOGLEVEL", "-8")):
        os.environ.setdefault(name, value)  # it would print its own warnings beside our one line
    return import_part("cv2", "video")


def _capture(cv2: Any, source: Path) -> Any:
    video = cv2.VideoCapture(str(source))
    if not video.isOpened():
        raise DataError(f"video {source}: expected a camera or a video file, found something that OpenCV can't open")
    if source.is_char_device():
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a slow engine gets the newest frame, not those of seconds ago
    return video


def _frames(video: Any, source: Path) -> Iterator[UInt8Array]:
    count = 0
    with closing(_Released(video)):
        while True:
            there, picture = video.read()
            if not there:
                break
            count += 1
            yield np.ascontiguousarray(picture[:, :, ::-1])  # OpenCV's order is BGR
    if source.is_char_device() or not count:
        raise DataError(f"video {source}: expected a frame, found none after {count}; check the camera or the file")


class _Released:
    """A capture as something to close."""

    def __init__(self, video: Any) -> None:
        self._video = video

    def close(self) -> None:
        """Free the device."""
        self._video.release()
