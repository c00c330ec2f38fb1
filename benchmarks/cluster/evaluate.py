"""The gate's batches on a Ray cluster: every actor has the reference and all engines open.

Every batch is computed as in a local run, so the results are the same. Actors send safetensors.
"""

import platform
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnetrt.benchmarks.accuracy.comparison import BatchOutcomes, Engine, Runner, by_title, run_batches
from resnetrt.benchmarks.accuracy.content import content_hash
from resnetrt.benchmarks.accuracy.outcomes import part_from_bytes, part_to_bytes
from resnetrt.benchmarks.accuracy.request import GateRequest, open_engines, open_images
from resnetrt.benchmarks.cluster.pool import Columns, Pool, answer
from resnetrt.benchmarks.verify.reference import find_reference
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Batch, Dataset
from resnetrt.calibration_record import calibration_hashes
from resnetrt.errors import BundleError, DataError, UsageError
from resnetrt.settings import read_settings


@dataclass(frozen=True)
class Origin:
    """The driver's bundle and images, described so that another node can check that it has the same.

    `batches` are the hashes of all batches of `size` images; an actor checks those of the batches it gets.
    """

    bundle: str
    fp32_sha256: str
    count: int
    size: int
    batches: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle, count: int, size: int, batches: Sequence[str]) -> "Origin":
        """`batches` are the `batch_hashes` for batches of `size` images."""
        fp32 = bundle.manifest.files[bundle.manifest.variants["fp32"].file].sha256
        return cls(str(bundle.path.absolute()), fp32, count, size, tuple(batches))

    def open_bundle(self) -> Bundle:
        """The bundle at the same path here. Raises `BundleError` for a different one."""
        bundle = Bundle.open(self.bundle)
        if bundle.manifest.files[bundle.manifest.variants["fp32"].file].sha256 != self.fp32_sha256:
            raise BundleError(f"bundle {self.bundle}: another one lies at this path on another node; copy it there")
        return bundle

    def batch(self, dataset: Dataset, start: int, data: str) -> Batch:
        """The batch of `dataset` that begins at `start`. Raises `DataError` if its images differ from the driver's."""
        if len(dataset) == self.count:
            part = dataset.select(np.arange(start, min(start + self.size, self.count)))
            if content_hash(part) == self.batches[start // self.size]:
                return next(part.batches(self.size))
        raise DataError(f"data {data}: other images lie at this path on another node; copy them there")


def absolute_data(data: str) -> str:
    """A data set's name, or its path in a form that is valid in another process's folder."""
    return str(Path(data).absolute()) if Path(data).exists() else data


@dataclass(frozen=True)
class EvaluationJob:
    """What an actor needs to open the same bundle, data and engines as the driver."""

    origin: Origin
    request: GateRequest
    engines: tuple[str, ...]
    reference: str


def runner_on_ray(
    bundle: Bundle, request: GateRequest, reference: str, engines: list[str], count: int, hashes: Sequence[str]
) -> Runner:
    """A runner for `compare_accuracy` over `count` images, on the cluster at `request.ray`; see `Pool`.

    `hashes` are the `batch_hashes` of the images. An actor that can't open the same `reference` raises `UsageError`.
    """
    origin = Origin.of(bundle, count, request.batch_size, hashes)
    job = EvaluationJob(origin, _absolute(request), tuple(engines), reference)
    gpu = any(bundle.read_engine(name).target != "cpu" for name in engines)

    def run(start: int, size: int) -> Iterable[BatchOutcomes]:
        assert request.ray is not None
        pool = Pool(request.ray, Scorer, job, read_settings().threads, gpu)
        return map(part_from_bytes, pool.run(range(start, count, size)))

    return run


class Scorer:
    """An actor: it opens everything at its first batch, and answers with the outcomes."""

    def __init__(self, job: EvaluationJob) -> None:
        self._job = job
        self._stack = ExitStack()
        self._opened: _Opened | None = None

    def __call__(self, rows: Columns) -> Columns:
        """See `answer`."""
        return answer(rows, self._score)

    def _score(self, start: int) -> bytes:
        if self._opened is None:
            self._opened = _open(self._job, self._stack)
        return part_to_bytes(self._opened.score(start, self._job))


@dataclass(frozen=True)
class _Opened:
    bundle: Bundle
    dataset: Dataset
    engines: dict[str, Engine]
    known: frozenset[str] | None

    def score(self, start: int, job: EvaluationJob) -> BatchOutcomes:
        batch = job.origin.batch(self.dataset, start, job.request.data)
        recipe = self.bundle.manifest.preprocessing
        return next(run_batches(self.engines, [batch], self.dataset, recipe, self.known, job.request.allow_overlap))


def _open(job: EvaluationJob, stack: ExitStack) -> _Opened:
    bundle = job.origin.open_bundle()
    dataset = open_images(bundle, job.request)
    reference = find_reference(bundle, job.request.weights)
    if reference.name != job.reference:
        raise UsageError(
            f"expected {job.reference} as the reference on every node, found {reference.name} on {platform.node()} "
            f"({reference.why or 'eager runs there, not here'}); the same packages and weights must be on all"
        )
    engines, _ = stack.enter_context(open_engines(bundle, job.engines, job.request.budget is not None))
    hashes = calibration_hashes(bundle)
    return _Opened(bundle, dataset, by_title(reference.infer, engines), None if hashes is None else frozenset(hashes))


def _absolute(request: GateRequest) -> GateRequest:
    """The request with paths that are valid in another process's folder."""
    weights = None if request.weights is None else request.weights.absolute()
    return replace(request, data=absolute_data(request.data), weights=weights, results=None, ray=None)
