"""The queue over real engines: the answers are those of the session itself."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.runtime import load
from resnetrt.runtime.backends import onnxruntime
from resnetrt.runtime.session import Session
from resnetrt.runtime.stream import Batcher, BatchOptions
from resnetrt.runtime.stream.instances import load_instances


@pytest.mark.parametrize(("instances", "threads"), [(2, 1), ("auto", None)])
def test_several_streams_on_two_instances_get_their_own_answers(shared_bundle, backend, instances, threads):
    engine = f"{backend}-fp32-cpu"
    images = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(60, seed=3))
    with load(shared_bundle, engine, threads=1) as session:
        expected = session.infer(images)["logits"]

    def drive(part: np.ndarray) -> list[np.ndarray]:
        stream = batcher.stream()
        futures = [stream.infer_async(part[index : index + 1]) for index in range(len(part))]
        return [future.result(60)["logits"][0] for future in futures]

    options = BatchOptions(max_batch_size=4)
    with Batcher.load(shared_bundle, engine, options, instances=instances, threads=threads) as batcher:
        batcher.warm_up()
        with ThreadPoolExecutor(3) as pool:
            logits = np.concatenate(list(pool.map(drive, np.split(images, 3))))
        stats = batcher.statistics.to_json()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert stats["inference_count"] == 60
    assert sum(row["batch_size"] * row["compute_infer"]["count"] for row in stats["batch_stats"]) == 60


def test_frames_are_preprocessed_whatever_the_engine_takes(shared_bundle, backend):
    frames = tiny_bundle.frames(2, seed=4)
    answers = []
    for engine in (f"{backend}-fp32-cpu", f"{backend}-fp32.frames-cpu"):
        with Batcher.load(shared_bundle, engine, threads=1, frames=True) as batcher:
            answers.append(batcher.stream().infer(frames)["logits"])
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_auto_is_an_instance_for_each_core_and_one_over_all(shared_bundle):
    instances = load_instances(shared_bundle, "onnxruntime-fp32-cpu", "auto", 2, fallback=False)
    assert [session.threads for session in instances.sessions] == [1, 1]
    assert instances.wide is instances.first
    assert instances.wide.threads == 2
    instances.close()
    assert all(session.closed for session in instances.all)
    single = load_instances(shared_bundle, "onnxruntime-fp32-cpu", "auto", 1, fallback=False)
    assert (len(single.sessions), single.wide) == (1, None)
    single.close()


@pytest.mark.parametrize("count", [0, -1, "many"])
def test_other_numbers_of_instances_are_refused(shared_bundle, count):
    with pytest.raises(UsageError, match="instances: expected a positive number or auto"):
        load_instances(shared_bundle, "onnxruntime-fp32-cpu", count, 1, fallback=False)


def test_every_instance_is_loaded_on_the_device(shared_bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    asked: list[str | None] = []
    real = onnxruntime.load

    def spy(path: Path, record: EngineRecord, threads: int, device: str | None = None) -> Session:
        asked.append(device)
        return real(path, record, threads, device)

    monkeypatch.setattr(onnxruntime, "load", spy)
    Batcher.load(shared_bundle, "onnxruntime-fp32-cpu", instances=2, threads=1, device="1").close()
    assert asked == ["1", "1"]
