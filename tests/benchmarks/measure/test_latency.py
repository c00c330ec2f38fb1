"""Rows of `bench`: their names, their pairing with eager, and what is refused."""

import numpy as np
import pytest
from engine_double import EngineDouble
from host_cuda import HostCuda
from tiny_bundle import PREPROCESSING, frames, make_bundle

from resnetrt.benchmarks.measure.latency import Contender, fill_batch, measure_latency, session_infer
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import DataError, UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime import load
from resnetrt.runtime.backends.tensorrt import TensorRtSession

SCHEDULE = Schedule(rounds=7, block_calls=3, settle_s=0, warm_up_s=0)
IMAGES = np.arange(5 * 2 * 3 * 3, dtype=np.float32).reshape(5, 2, 3, 3)
NAMES = {"network", "depth", "engine", "backend", "precision", "batch", "threads", "n", "median_ms", "p90_ms", "p99_ms"}


class Bench:
    """Contenders on a clock of their own; a call takes its milliseconds for each image."""

    def __init__(self):
        self.now = 0
        self.shapes = set()

    def __call__(self):
        return self.now

    def contender(self, engine, milliseconds):
        def infer(images):
            self.now += round(milliseconds * 1e6 * len(images))
            self.shapes.add(images.shape)
            return images.sum((1, 2, 3))[:, None]

        return Contender(engine, engine.partition("-")[0], engine.partition("-")[2], infer, 2)


def test_rows_have_the_designs_names_and_pair_with_eager():
    bench = Bench()
    contenders = [bench.contender("eager-fp32", 6.0), bench.contender("openvino-int8", 1.5)]
    rows = measure_latency("resnet18", 18, contenders, IMAGES, (1, 8), SCHEDULE, bench)
    assert [(row["engine"], row["batch"]) for row in rows] == [
        ("eager-fp32", 1),
        ("openvino-int8", 1),
        ("eager-fp32", 8),
        ("openvino-int8", 8),
    ]
    assert all({*NAMES, "ci_ms"} <= row.keys() for row in rows)
    fast = rows[3]
    assert (fast["network"], fast["depth"], fast["backend"], fast["precision"]) == ("resnet18", 18, "openvino", "int8")
    assert (fast["n"], fast["median_ms"], fast["ci_ms"], fast["threads"]) == (21, 12.0, [12.0, 12.0], 2)
    assert [row["times_faster"] for row in rows] == [1.0, 4.0, 1.0, 4.0]
    assert fast["times_faster_ci"] == [4.0, 4.0]
    assert bench.shapes == {(1, 2, 3, 3), (8, 2, 3, 3)}


@pytest.mark.parametrize("rounds", [1, 5, 6])
def test_few_rounds_give_no_factor(rounds):
    bench = Bench()
    contenders = [bench.contender("eager-fp32", 6.0), bench.contender("openvino-int8", 1.5)]
    schedule = Schedule(rounds=rounds, block_calls=3, settle_s=0, warm_up_s=0)
    row = measure_latency("resnet18", 18, contenders, IMAGES, (1,), schedule, bench)[1]
    expected = (None, None) if rounds < 6 else (4.0, [4.0, 4.0])
    assert (row["times_faster"], row["times_faster_ci"]) == expected


def test_without_eager_nothing_is_said_to_be_faster():
    bench = Bench()
    row = measure_latency("n", None, [bench.contender("openvino-int8", 1.0)], IMAGES, (1,), SCHEDULE, bench)[0]
    assert (row["times_faster"], row["times_faster_ci"], row["depth"]) == (None, None, None)


def test_real_calls_on_the_real_clock():
    def infer(images):
        return images.sum((1, 2, 3))[:, None]

    rows = measure_latency("n", 1, [Contender("eager-fp32", "eager", "fp32", infer, 1)], IMAGES, (2,), SCHEDULE)
    assert rows[0]["median_ms"] > 0


@pytest.mark.parametrize("batch", [1, 3, 5, 12])
def test_a_batch_is_filled_by_repeating(batch):
    filled = fill_batch(IMAGES, batch)
    assert filled.flags.c_contiguous
    np.testing.assert_array_equal(filled, np.stack([IMAGES[i % 5] for i in range(batch)]))


def test_no_images_and_no_batch_are_refused():
    with pytest.raises(DataError, match="expected at least one image, found zero"):
        fill_batch(IMAGES[:0], 1)
    with pytest.raises(UsageError, match="batch size: expected a positive number, found 0"):
        fill_batch(IMAGES, 0)


def test_twins_and_nobody_are_refused():
    bench = Bench()
    twins = [bench.contender("a-fp32", 1.0)] * 2
    with pytest.raises(UsageError, match="expected each engine once, found a-fp32, a-fp32"):
        measure_latency("n", 1, twins, IMAGES, (1,), SCHEDULE, bench)
    with pytest.raises(UsageError, match="at least one candidate"):
        measure_latency("n", 1, [], IMAGES, (1,), SCHEDULE, bench)


class CountedCuda(HostCuda):
    """Host memory whose events lie 1, 2, 3, ... milliseconds apart."""

    def elapsed_ms(self, start, end):
        assert super().elapsed_ms(start, end) > 0, "the work lies between the events"
        self.counts["elapsed"] += 1
        return float(self.counts["elapsed"])


def test_an_engine_on_a_gpu_is_also_timed_by_its_events(tmp_path):
    bundle, cuda = make_bundle(tmp_path / "tiny.bundle"), CountedCuda()
    record = EngineRecord("tensorrt-fp32-sm86", "tensorrt", "fp32", "sm86")
    images = PREPROCESSING.normalize(frames(4))
    with TensorRtSession(record, EngineDouble(bundle.variant_file("fp32"), cuda), cuda, threads=1) as session:
        assert session.on_device
        gpu = Contender("gpu", "tensorrt", "fp32", session_infer(session), 1, session.execution_ms)
        cpu = Contender("cpu", "onnxruntime", "fp32", lambda batch: batch, 1)
        rows = {row["engine"]: row for row in measure_latency("n", 18, [gpu, cpu], images, (4,), SCHEDULE)}
    runs = rows["gpu"]["n"]
    assert cuda.counts["elapsed"] == runs == 21, "as many runs by events as by the clock"
    assert (rows["gpu"]["device_median_ms"], rows["gpu"]["device_p90_ms"]) == (11.0, 19.0)
    assert (rows["cpu"]["device_median_ms"], rows["cpu"]["device_p99_ms"]) == (None, None)
    assert rows["gpu"]["median_ms"] > 0


def test_an_engine_on_the_cpu_has_no_device_to_ask(tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    with load(bundle, compile_variant(bundle, "fp32", "onnxruntime")) as session:
        assert not session.on_device
        with pytest.raises(UsageError, match="no device to ask"):
            session.execution_ms(1)
