"""`compare_accuracy`, and so `evaluate`, `search` and `deploy`, with engines on a GPU: a batch is copied in early."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from engine_double import open_double
from host_cuda import HostCuda

from resnetrt.benchmarks.accuracy.comparison import PairedOutcomes, compare_accuracy
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Dataset, open_dataset
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.batches import OnSession

PREPROCESSING = tiny_bundle.PREPROCESSING
COUNT = 23


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.make_bundle(tmp_path_factory.mktemp("gpu") / "tiny.bundle")


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda()


@pytest.fixture(params=["fp32", "fp32.frames"])
def session(bundle: Bundle, cuda: HostCuda, request: pytest.FixtureRequest) -> Iterator[TensorRtSession]:
    """Batches of 8 at most, also for frames."""
    with open_double(bundle, cuda, request.param, profiles=((1, 4, 8),)) as made:
        yield made


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    frames = tiny_bundle.frames(COUNT, 5)
    labels = tiny_bundle.reference(PREPROCESSING.normalize(frames)).argmax(1)
    np.savez(tmp_path / "data.npz", x=frames, y=labels)
    return open_dataset(str(tmp_path / "data.npz"), PREPROCESSING, classes=tiny_bundle.CLASSES)


def reference(images: np.ndarray) -> np.ndarray:
    return tiny_bundle.reference(images).astype(np.float32)


def compare(session: TensorRtSession, dataset: Dataset, size: int) -> PairedOutcomes:
    engines = {"double": OnSession(session, "logits")}
    return compare_accuracy(reference, engines, dataset, PREPROCESSING, batch_size=size)


@pytest.mark.parametrize("size", [5, 8, 11, 50])
def test_batches_of_any_size_are_judged_as_they_are(session: TensorRtSession, dataset: Dataset, size: int):
    """11 and 50 are more than the engine takes at once."""
    comparison = compare(session, dataset, size)
    (row,) = comparison.accuracy()
    assert (row.n, row.top1, row.flips_percent) == (COUNT, 100.0, 0.0)
    assert row.sqnr_db > 90
    np.testing.assert_allclose(comparison.candidates["double"].signal, comparison.reference.signal, rtol=1e-4)


def test_the_reference_works_while_the_gpu_has_the_next_batch(
    session: TensorRtSession, cuda: HostCuda, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []

    def slow_reference(images: np.ndarray) -> np.ndarray:
        order.append("reference")
        return reference(images)

    session.preprocessing = PREPROCESSING
    session.infer_frames(next(dataset.batches(8)).frames)  # contexts and graphs are made before
    for name in ("copy_in", "finish", "synchronize"):
        real = getattr(cuda, name)
        monkeypatch.setattr(cuda, name, lambda *args, _name=name, _real=real: (order.append(_name), _real(*args))[1])
    compare_accuracy(slow_reference, {"a": OnSession(session, "logits")}, dataset, PREPROCESSING, batch_size=8)
    batch = ["reference", "copy_in", "finish"]  # the copy is of the batch after the one that is waited for
    assert order == ["reference", "copy_in", *batch[1:], *batch, "reference", "finish"]
