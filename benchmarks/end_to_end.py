"""What an application waits for at batch 1: from an encoded JPEG, from a raw frame, and the engine alone."""

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from resnetrt.benchmarks.latency import BASELINE, Infer
from resnetrt.benchmarks.timing import DEFAULT_SCHEDULE, Clock, Schedule, measure
from resnetrt.preprocess import Preprocessing, UInt8Array
from resnetrt.runtime.session import Session

PHOTO = (500, 375)  # width and height of a typical ImageNet photograph
QUALITY = 90
SOURCES = ("jpeg", "frame", "tensor")


def measure_end_to_end(
    network: str,
    preprocessing: Preprocessing,
    sessions: Mapping[str, Session],
    eager: Infer | None,
    schedule: Schedule = DEFAULT_SCHEDULE,
    clock: Clock | None = None,
) -> list[dict[str, Any]]:
    """One row for each engine (and eager, if given) and each of `SOURCES`, all timed side by side.

    `jpeg`: decode, resize, crop, preprocess, infer. `frame`: a uint8 frame of the network's size, preprocess, infer.
    `tensor`: infer alone.
    """
    jpeg = sample_jpeg()
    frames = preprocessing.frame_from_file(jpeg)[None]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, session in sessions.items():
        calls |= _calls(name, jpeg, frames, preprocessing, session.infer_frames, session.infer, session.prepare(frames))
    if eager is not None:
        normalize = preprocessing.normalize
        calls |= _calls(BASELINE, jpeg, frames, preprocessing, lambda x: eager(normalize(x)), eager, normalize(frames))
    timings = measure({"|".join(key): call for key, call in calls.items()}, schedule, *_clock(clock))
    return [
        {"network": network, "engine": engine, "source": source, **timings[f"{engine}|{source}"].to_json()}
        for engine, source in calls
    ]


def _clock(clock: Clock | None) -> tuple[Any, ...]:
    return () if clock is None else (iter, clock)


def _calls(
    name: str,
    jpeg: bytes,
    frames: UInt8Array,
    preprocessing: Preprocessing,
    infer_frames: Callable[[UInt8Array], object],
    infer: Callable[[Any], object],
    tensor: Any,
) -> dict[tuple[str, str], Callable[[], object]]:
    def from_jpeg() -> object:
        return infer_frames(preprocessing.frame_from_file(jpeg)[None])

    return {
        (name, "jpeg"): from_jpeg,
        (name, "frame"): partial(infer_frames, frames),
        (name, "tensor"): partial(infer, tensor),
    }


def sample_jpeg() -> bytes:
    """A synthetic photograph, the same every time: smooth colours with some texture, about 60 kB."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(np.int16) + rng.normal(0, 6, (PHOTO[1], PHOTO[0], 1)).astype(np.int16)
    blob = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(blob, "JPEG", quality=QUALITY)
    return blob.getvalue()
