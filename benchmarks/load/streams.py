"""Several cameras at once: frames a second of N streams that share an engine, compared with one caller's best batch.

python -m resnetrt.benchmarks.load.streams BUNDLE [--engine ID] [--streams 4,8,16] [--json]

Each stream keeps two frames in flight, as a camera with two buffers does: while the engine runs one frame of each
stream, the second one waits. All candidates are timed in rotated blocks.
"""

import argparse
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.measure.latency import fill_batch
from resnetrt.benchmarks.measure.noise import watch
from resnetrt.benchmarks.measure.timing import Schedule, Timing, measure, no_ratio, paired_ratio
from resnetrt.bundle import Bundle
from resnetrt.conditions import conditions, plural
from resnetrt.errors import ResnetrtError
from resnetrt.golden import Golden
from resnetrt.preprocess import UInt8Array
from resnetrt.runtime import Session, load
from resnetrt.runtime.load import check_threads
from resnetrt.runtime.stream import Batcher, BatchOptions

BATCHES = (1, 2, 4, 8, 16)
_UNDER_WAY = 2  # frames of one stream that are queued or running
_CALL_S = 1.0  # approximate duration of a timed call: filling and emptying the queue is a small part of it


def measure_streams(
    bundle: Bundle,
    engine: str | None,
    streams: Sequence[int],
    batches: Sequence[int] = BATCHES,
    threads: int | None = None,
    rounds: int = 11,
) -> dict[str, Any]:
    """`batches[]`: frames a second of one caller at each batch size; `streams[]`: those of N streams in shared batches.

    Streams are timed with one instance of the engine on all threads, and with one instance per thread. `ratio` is their
    frames a second divided by those of the best batch, paired by rounds; None with fewer than six rounds. Frames are
    uint8, and preprocessing is included.
    """
    name, count = bundle.select_engine(engine), check_threads(threads)
    frames = Golden.of(bundle).frames
    calls: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        alone = stack.enter_context(load(bundle, name, threads=count))
        for batch in batches:
            calls[f"batch {batch}"] = partial(alone.infer_frames, fill_batch(frames, batch))
            sizes[f"batch {batch}"] = batch
        total = round(_CALL_S * _quick_rate(calls, sizes))
        for instances in sorted({1, count}):
            for number in streams:
                sessions = [load(bundle, name, threads=count // instances) for _ in range(instances)]
                batcher = stack.enter_context(_batcher(sessions, -(-number // instances)))
                label = f"{number} streams, {instances} instances"
                turns = max(_UNDER_WAY, math.ceil(total / number))
                calls[label] = partial(_drive, batcher, number, turns, fill_batch(frames, 1))
                sizes[label] = number * turns
        with watch() as noise:
            timings = measure(calls, Schedule(rounds=rounds, min_block_s=0.2, settle_s=0.1))
    best = max((f"batch {batch}" for batch in batches), key=lambda label: sizes[label] / timings[label].median_ms)
    rows = [
        {"streams": number, "instances": instances} | _row(label, best, sizes, timings)
        for instances in sorted({1, count})
        for number in streams
        for label in [f"{number} streams, {instances} instances"]
    ]
    single = [{"batch": batch, "frames_per_s": _rate(f"batch {batch}", sizes, timings)} for batch in batches]
    head = {"network": bundle.manifest.name, "engine": name, "threads": count, "best_batch": sizes[best]}
    return head | {"batches": single, "streams": rows, "noise": noise.to_json()}


def _batcher(sessions: Sequence[Session], most: int) -> Batcher:
    batcher = Batcher(sessions, BatchOptions(max_batch_size=most, max_queue_size=10_000), frames=True)
    batcher.warm_up()
    return batcher


def _quick_rate(calls: Mapping[str, Callable[[], object]], sizes: Mapping[str, int]) -> float:
    """Frames a second of the largest batch, roughly."""
    label = max(sizes, key=lambda name: sizes[name])
    calls[label]()
    started = time.perf_counter()
    calls[label]()
    return sizes[label] / (time.perf_counter() - started)


def _drive(batcher: Batcher, number: int, turns: int, frame: UInt8Array) -> None:
    """Run `turns` frames of each of `number` streams, each with `_UNDER_WAY` frames in flight."""
    streams = [batcher.stream() for _ in range(number)]
    waiting = deque((stream, stream.infer_async(frame)) for _ in range(_UNDER_WAY) for stream in streams)
    left = number * (turns - _UNDER_WAY)
    while waiting:
        stream, future = waiting.popleft()
        future.result()
        if left:
            left -= 1
            waiting.append((stream, stream.infer_async(frame)))


def _rate(label: str, sizes: dict[str, int], timings: dict[str, Timing]) -> float:
    return 1e3 * sizes[label] / timings[label].median_ms


def _row(label: str, best: str, sizes: dict[str, int], timings: dict[str, Timing]) -> dict[str, Any]:
    per_frame = ([ms / sizes[name] for ms in timings[name].round_medians_ms] for name in (best, label))
    ratio = paired_ratio(*per_frame)
    return {
        "frames_per_s": _rate(label, sizes, timings),
        "rounds": len(timings[label].round_medians_ms),
        "ratio": ratio and ratio.value,
        "ratio_ci": ratio and [ratio.low, ratio.high],
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m resnetrt.benchmarks.load.streams", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--streams", type=_numbers, default=(4, 8, 16))
    parser.add_argument("--batches", type=_numbers, default=BATCHES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = vars(parser.parse_args(arguments))
    as_json, path = given.pop("as_json"), given.pop("bundle")
    try:
        record = measure_streams(Bundle.open(path), **given)
    except ResnetrtError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if as_json:
        sys.stdout.write(json.dumps({"conditions": conditions(), **record}, indent=2) + "\n")
        return 0
    sys.stdout.write("\n".join(_lines(record)) + "\n")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _lines(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['network']} {record['engine']}, {plural(record['threads'], 'thread')}, uint8 frames in"]
    lines += [f"one caller, batch {row['batch']:2}: {row['frames_per_s']:8.1f} frames/s" for row in record["batches"]]
    for row in record["streams"]:
        if row["ratio"] is None:
            beside = no_ratio(row["rounds"], "ask for at least six with --rounds")
        else:
            low, high = row["ratio_ci"]
            beside = f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}] of batch {record['best_batch']}"
        rate = f"{row['frames_per_s']:8.1f} frames/s"
        lines.append(f"{row['streams']:2} streams, {row['instances']} instances: {rate}, {beside}")
    return [*lines, *(f"DISTURBED: {reason}" for reason in record["noise"]["reasons"])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
