"""Latency of engines beside eager PyTorch in the same run: the `results[]` rows of `bench`."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.measure.timing import (
    DEFAULT_SCHEDULE,
    Clock,
    EngineTimingRow,
    Schedule,
    Timing,
    measure,
    ratio,
)
from resnetrt.errors import DataError, UsageError
from resnetrt.preprocess import FloatArray
from resnetrt.progress import track
from resnetrt.runtime.session import Session

BASELINE = "eager-fp32"
SUBSTITUTE = "onnx-fp32"  # the FP32 file in ONNX Runtime, where eager can't run
BASELINES = (BASELINE, SUBSTITUTE)
# peers, timed where they are asked for; the last takes frames, by OpenVINO's PrePostProcessor
COMPILED, NNCF, NNCF_FRAMES = "torch-compile-fp32", "nncf-openvino-int8", "nncf-openvino-int8-ppp"
# torch on the GPU beside torch on the CPU, with transfers; the last where peers are asked for
EAGER_GPU, EAGER_GPU_FP16, COMPILED_GPU = "eager-fp32-gpu", "eager-fp16-gpu", "torch-compile-fp16-gpu"
CPU, GPU = "cpu", "gpu"  # the `device` of a row
HOST, DEVICE = "host", "device"  # the `data` of a row: where images and logits lie
IN_PLACE = ":device"  # the end of the name of a cell without transfers
Infer = Callable[[FloatArray], npt.NDArray[np.float32]]
Place = Callable[[npt.NDArray[Any]], Callable[[], object]]


class LatencyRow(EngineTimingRow):
    """One engine beside the baseline; the factor is None without a baseline, and with too few rounds."""

    depth: int | None
    input: str
    backend: str
    precision: str
    device: str
    data: str
    threads: int
    times_faster: float | None
    times_faster_ci: list[float] | None


class WatchedRow(LatencyRow):
    """The same, and whether something else used the machine meanwhile."""

    disturbed: bool


@dataclass(frozen=True)
class Contender:
    """One engine to time. `infer` takes float32 `(N, C, H, W)` and returns when its outputs are on the host.

    On a GPU, `execution_ms` maps batch size and number of runs to the runs' milliseconds by the device's clock.
    `images` replace the run's images for an engine that takes uint8 frames `(N, H, W, C)`. `device` is `cpu` or `gpu`:
    whose peaks its rates are compared with. `place` copies a batch to the device and gives the call to time instead of
    `infer`, one without transfers.
    """

    engine: str
    backend: str
    precision: str
    infer: Infer
    threads: int
    execution_ms: Callable[[int, int], Sequence[float]] | None = None
    images: npt.NDArray[Any] | None = None
    device: str = CPU
    place: Place | None = None

    def in_place(self, place: Place) -> "Contender":
        """The same engine timed without transfers, under a name of its own."""
        return replace(self, engine=self.engine + IN_PLACE, place=place, execution_ms=None)

    def call(self, images: FloatArray, batch: int) -> Callable[[], object]:
        """What is timed at a batch size; `images` are the run's."""
        filled = fill_batch(images if self.images is None else self.images, batch)
        return partial(self.infer, filled) if self.place is None else self.place(filled)


def measure_latency(
    network: str,
    depth: int | None,
    contenders: Sequence[Contender],
    images: FloatArray,
    batches: Sequence[int] = (1,),
    schedule: Schedule = DEFAULT_SCHEDULE,
    clock: Clock | None = None,
) -> list[LatencyRow]:
    """One row per batch size and contender; `times_faster` is paired with the first of `BASELINES` that is among them.

    Cells without transfers have no such factor: the baseline's data lies on the host.
    `images` `(N, C, H, W)` are repeated as needed to fill a batch. `schedule` applies to each batch size.
    Raises `UsageError` without contenders, for two of one name, and for batches below one.
    """
    names = [contender.engine for contender in contenders]
    if len(set(names)) != len(names):
        raise UsageError(f"bench: expected each engine once, found {', '.join(names)}")
    rows: list[LatencyRow] = []
    for batch in batches:
        calls = {item.engine: item.call(images, batch) for item in contenders}
        progress = partial(_round_bar, label=f"latency, batch {batch}")
        on_device = {
            item.engine: partial(item.execution_ms, batch) for item in contenders if item.execution_ms is not None
        }
        timings = measure(calls, schedule, progress, clock or time.perf_counter_ns, on_device)
        rows += [_row(network, depth, contender, batch, timings) for contender in contenders]
    return rows


def fill_batch(images: npt.NDArray[Any], batch: int) -> npt.NDArray[Any]:
    """The first `batch` images as a new contiguous array, repeated from the start if there are fewer."""
    if batch < 1:
        raise UsageError(f"batch size: expected a positive number, found {batch}")
    if len(images) == 0:
        raise DataError("bench: expected at least one image, found zero")
    return np.ascontiguousarray(images[np.arange(batch) % len(images)])


def _round_bar(rounds: Sequence[int], label: str) -> Iterable[int]:
    return track(rounds, label, len(rounds), "rounds")


def watched(rows: Iterable[LatencyRow], disturbed: bool) -> list[WatchedRow]:
    """The rows with the mark of the block in which they were measured."""
    return [{**row, "disturbed": disturbed} for row in rows]


def _row(network: str, depth: int | None, contender: Contender, batch: int, timings: dict[str, Timing]) -> LatencyRow:
    timing = timings[contender.engine]
    baseline = baseline_of(timings)
    in_place = contender.place is not None
    times_faster = None if baseline is None or in_place else ratio(timings[baseline], timing)
    return {
        "network": network,
        "depth": depth,
        "engine": contender.engine,
        "input": "float32" if contender.images is None else contender.images.dtype.name,
        "backend": contender.backend,
        "precision": contender.precision,
        "device": contender.device,
        "data": DEVICE if in_place else HOST,
        "batch": batch,
        "threads": contender.threads,
        **timing.to_json(),
        "times_faster": None if times_faster is None else times_faster.value,
        "times_faster_ci": None if times_faster is None else [times_faster.low, times_faster.high],
    }


def baseline_of(engines: Iterable[str]) -> str | None:
    """The one of `engines` that times are divided by; None if there is none."""
    present = set(engines)
    return next((name for name in BASELINES if name in present), None)


def session_infer(session: Session) -> Infer:
    """A session as a function from images to its first output."""

    def infer(images: FloatArray) -> FloatArray:
        return next(iter(session.infer(images).values()))

    return infer
