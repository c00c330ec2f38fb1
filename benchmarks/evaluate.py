"""Accuracy of a bundle's engines on labelled images, beside the reference."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from resnetrt.benchmarks.accuracy import Comparison, compare_accuracy
from resnetrt.benchmarks.latency import Infer
from resnetrt.benchmarks.reference import Reference, find_reference
from resnetrt.bundle import Bundle
from resnetrt.calibration.data import Dataset, open_dataset
from resnetrt.calibration.record import FILE, CalibrationRecord
from resnetrt.errors import UsageError
from resnetrt.preprocess import FloatArray
from resnetrt.runtime import load
from resnetrt.runtime.session import Session


@dataclass(frozen=True)
class Evaluation:
    """The comparison, and the reference it was made against."""

    reference: Reference
    comparison: Comparison
    dataset: Dataset


def evaluate_bundle(
    bundle: Bundle,
    data: str,
    engines: Sequence[str] = (),
    weights: Path | None = None,
    samples: int | None = None,
    allow_overlap: bool = False,
) -> Evaluation:
    """Run the reference and `engines` (default all) over `data`, at most `samples` images (class-balanced).

    Images whose pixels calibration has seen are a `DataError` unless `allow_overlap`.
    """
    manifest = bundle.manifest
    names = [bundle.select_engine(name) for name in engines] or sorted(manifest.engines)
    if not names:
        raise UsageError(f"bundle {bundle.path} has no engines to evaluate; make one with: resnetrt compile")
    dataset = open_dataset(data, manifest.preprocessing, manifest.labels, classes=manifest.classes)
    if samples is not None and samples < len(dataset):
        dataset = dataset.subset(samples)
    reference = find_reference(bundle, weights)
    with ExitStack() as stack:
        candidates = {name: session_infer(stack.enter_context(load(bundle, name))) for name in names}
        hashes = calibration_hashes(bundle)
        found = compare_accuracy(
            reference.infer, candidates, dataset, manifest.preprocessing, hashes, allow_overlap, batch_size=50
        )
    return Evaluation(reference, found, dataset)


def calibration_hashes(bundle: Bundle) -> tuple[str, ...] | None:
    """Hashes of the images that calibration used; None if the bundle has no calibration record."""
    if FILE not in bundle.manifest.files:
        return None
    return CalibrationRecord.from_bytes(bundle.file(FILE).read_bytes(), str(bundle.path / FILE)).image_hashes


def session_infer(session: Session) -> Infer:
    """A session as a function from images to its first output."""

    def infer(images: FloatArray) -> FloatArray:
        return next(iter(session.infer(images).values()))

    return infer
