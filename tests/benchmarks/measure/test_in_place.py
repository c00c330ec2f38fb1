"""Cells without transfers, on the double of a TensorRT engine in host memory that is as lazy as a GPU."""

import numpy as np
import pytest
from engine_double import open_double
from host_cuda import HostCuda
from tiny_bundle import PREPROCESSING, frames, make_bundle

from resnetrt.benchmarks.depth.lab import engine_contenders
from resnetrt.benchmarks.measure.latency import Contender, measure_latency
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.errors import UsageError

QUICK = Schedule(rounds=7, block_calls=3, settle_s=0, warm_up_s=0)


def test_without_transfers_nothing_is_copied_to_or_from_the_host(tmp_path):
    bundle, cuda = make_bundle(tmp_path / "tiny.bundle"), HostCuda()
    images = PREPROCESSING.normalize(frames(4))
    with open_double(bundle, cuda) as session:
        expected = session.infer(images)
        with_transfers, in_place = engine_contenders("tensorrt-fp32-sm86", session, frames(4))
        assert in_place.engine == "tensorrt-fp32-sm86:device"
        call = in_place.call(images, 4)
        before = cuda.counts.copy()
        outputs = [call() for _ in range(3)]
        done = cuda.counts - before
        assert (done["copy_in"], done["copy_out"], done["synchronize_device"], done["allocate"]) == (0, 0, 0, 0)
        assert done["synchronize"] == 3, "each call waits for its own work"
        np.testing.assert_array_equal(np.from_dlpack(outputs[2]["logits"]), expected["logits"])
        eager = Contender("eager-fp32", "eager", "fp32", lambda batch: batch, 1)
        rows = measure_latency("n", 18, [eager, with_transfers, in_place], images, (4,), QUICK)
        assert [row["data"] for row in rows] == ["host", "host", "device"]
        assert [row["times_faster"] is None for row in rows] == [False, False, True], "eager has its data on the host"
        assert [row["device_median_ms"] is None for row in rows] == [True, False, True]
        with pytest.raises(UsageError, match="expected"):
            session.upload(images[:, :1])
        del call, outputs
    assert cuda.held == 0
