"""Rows of `bench`: their names, their pairing with eager, and what is refused."""

import numpy as np
import pytest

from resnetrt.benchmarks.latency import Contender, fill_batch, measure_latency
from resnetrt.benchmarks.timing import Schedule
from resnetrt.errors import DataError, UsageError

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
