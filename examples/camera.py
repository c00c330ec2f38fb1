"""A camera that an engine keeps up with, or not: frames at a fixed rate, deadline misses counted, latencies shown.

python examples/camera.py BUNDLE SOURCE [--engine ID] [--fps 30] [--seconds 10] [--streams 1] [--overload drop-oldest]

SOURCE is a folder of images, shown over and over, a video file or a device such as /dev/video0 (with the extra video).
A result is late when it comes after the next frame; a frame that can't start by then is not run at all.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from resnetrt.errors import DataError
from resnetrt.preprocess import Preprocessing, UInt8Array
from resnetrt.runtime.predict.video import open_video
from resnetrt.runtime.stream import Batcher, BatchOptions, Overloaded, Stream

SUFFIXES = {".jpg", ".jpeg", ".png"}


def frames_of(source: Path, preprocessing: Preprocessing) -> Iterator[UInt8Array]:
    """Frames (H, W, C) without end from a folder; from a video until it ends."""
    if not source.is_dir():
        yield from map(preprocessing.frame_from_array, open_video(source))
        return
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{source}: expected .jpg or .png images, found none")
    yield from itertools.cycle([preprocessing.frame_from_file(path) for path in paths])


def run(streams: list[Stream], frames: Iterator[UInt8Array], fps: float, seconds: float) -> int:
    """Give every stream a frame at each tick; returns the number of ticks."""
    started, tick = time.monotonic(), -1
    for tick, frame in enumerate(frames):
        due = started + tick / fps
        if due - started >= seconds:
            return tick
        time.sleep(max(0.0, due - time.monotonic()))
        for stream in streams:
            with suppress(Overloaded):  # the stream has counted it
                buffer = stream.buffer()  # lent again when its frame is done: nothing is allocated
                buffer[0] = frame
                stream.infer_async(buffer, timeout_microseconds=int(1e6 / fps))
    return tick + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--overload", choices=["reject", "drop-oldest"], default="drop-oldest")
    arguments = parser.parse_args()
    if not (arguments.fps > 0 and arguments.seconds > 0 and arguments.streams > 0):
        parser.error("--fps, --seconds and --streams: expected numbers above 0")
    options = BatchOptions(max_batch_size=max(1, arguments.streams))
    with Batcher.load(arguments.bundle, arguments.engine, options, frames=True) as batcher:
        batcher.warm_up()
        streams = [batcher.stream(1, arguments.overload) for _ in range(arguments.streams)]
        preprocessing = batcher.sessions[0].preprocessing
        assert preprocessing is not None
        ticks = run(streams, frames_of(arguments.source, preprocessing), arguments.fps, arguments.seconds)
    for index, stream in enumerate(streams):
        misses = ticks - stream.counts["done"]
        counts = ", ".join(f"{number} {name}" for name, number in sorted(stream.counts.items()))
        print(f"stream {index}: {ticks} frames, {misses} deadlines missed ({counts})")
        print(", ".join(f"{name} {value:.2f}" for name, value in stream.latency.to_json().items() if value is not None))
        print("\n".join(stream.latency.bars()))


if __name__ == "__main__":
    main()
