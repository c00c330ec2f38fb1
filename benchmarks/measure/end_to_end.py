"""The time that an application waits at batch 1, from an encoded JPEG and from a raw frame."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from resnetrt.benchmarks.measure.timing import DEFAULT_SCHEDULE, Clock, EngineTimingRow, Schedule, measure
from resnetrt.preprocess import Preprocessing, UInt8Array

PHOTO = (500, 375)  # width and height of a typical ImageNet photograph
QUALITY = 90


class PathRow(EngineTimingRow):
    """A whole path, from its `source` (`frame` or `jpeg`) to logits."""

    source: str


@dataclass(frozen=True)
class Route:
    """The way of an engine from uint8 `(N, H, W, C)` frames to logits: `prepare`, then `infer`."""

    prepare: Callable[[UInt8Array], Any]
    infer: Callable[[Any], object]


def measure_end_to_end(
    network: str,
    preprocessing: Preprocessing,
    routes: Mapping[str, Route],
    schedule: Schedule = DEFAULT_SCHEDULE,
    clock: Clock | None = None,
) -> list[PathRow]:
    """One row for each engine of `routes` and each source, all timed side by side.

    `jpeg`: decode, resize, crop (the same code for all), prepare, infer. `frame`: a uint8 frame of the network's size,
    prepare, infer. For the engine alone see `latency`.
    """
    jpeg = sample_jpeg()
    frames = preprocessing.frame_from_file(jpeg)[None]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, route in routes.items():
        calls |= _calls(name, route, jpeg, frames, preprocessing)
    timings = measure({"|".join(key): call for key, call in calls.items()}, schedule, *_clock(clock))
    return [
        {"network": network, "engine": engine, "source": source, "batch": 1, **timings[f"{engine}|{source}"].to_json()}
        for engine, source in calls
    ]


def _clock(clock: Clock | None) -> tuple[Any, ...]:
    return () if clock is None else (iter, clock)


def _calls(
    name: str, route: Route, jpeg: bytes, frames: UInt8Array, preprocessing: Preprocessing
) -> dict[tuple[str, str], Callable[[], object]]:
    def from_frames(images: UInt8Array) -> object:
        return route.infer(route.prepare(images))

    def from_jpeg() -> object:
        return from_frames(preprocessing.frame_from_file(jpeg)[None])

    return {
        (name, "jpeg"): from_jpeg,
        (name, "frame"): partial(from_frames, frames),
    }


def sample_jpeg() -> bytes:
    """A deterministic synthetic photograph: smooth colours with some texture, about 60 kB."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(np.int16) + rng.normal(0, 6, (PHOTO[1], PHOTO[0], 1)).astype(np.int16)
    blob = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(blob, "JPEG", quality=QUALITY)
    return blob.getvalue()
