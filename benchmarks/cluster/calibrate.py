"""Calibration on a Ray cluster: actors run the batches, the driver adds up their statistics.

The driver adds them in the order of the batches, as a local run does, so the record is the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from resnetrt.benchmarks.accuracy.content import batch_hashes
from resnetrt.benchmarks.cluster.evaluate import Origin, absolute_data
from resnetrt.benchmarks.cluster.pool import Columns, Pool, answer
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Dataset
from resnetrt.calibration.observe.collect import Runner, open_some
from resnetrt.calibration.observe.probe import Probe
from resnetrt.calibration.observe.seen import Seen, see
from resnetrt.preprocess import Preprocessing


@dataclass(frozen=True)
class CalibrationJob:
    """What an actor needs to run the driver's images through the driver's network."""

    origin: Origin
    data: str
    samples: int
    seed: int


def runner_on_ray(bundle: Bundle, data: str, samples: int, seed: int, address: str) -> Runner:
    """A runner for `calibrate_bundle` with the same arguments, on the cluster at `address`; see `Pool`."""

    def run(_probe: Probe, dataset: Dataset, _recipe: Preprocessing, batch_size: int) -> Iterable[Seen]:
        origin = Origin.of(bundle, len(dataset), batch_size, batch_hashes(dataset, batch_size))
        job = CalibrationJob(origin, absolute_data(data), samples, seed)
        pool = Pool(address, Observer, job, cpus=1)  # a probe uses one core
        return map(Seen.from_bytes, pool.run(range(0, len(dataset), batch_size)))

    return run


class Observer:
    """An actor: it opens network and images at its first batch, and answers with the statistics of each batch."""

    def __init__(self, job: CalibrationJob) -> None:
        self._job = job
        self._opened: tuple[Probe, Dataset, Preprocessing] | None = None

    def __call__(self, rows: Columns) -> Columns:
        """See `answer`."""
        return answer(rows, self._observe)

    def _observe(self, start: int) -> bytes:
        probe, dataset, recipe = self._opened = self._opened or self._open()
        batch = self._job.origin.batch(dataset, start, self._job.data)
        return see(probe, batch.frames, recipe).to_bytes()

    def _open(self) -> tuple[Probe, Dataset, Preprocessing]:
        job = self._job
        bundle = job.origin.open_bundle()
        recipe = bundle.manifest.preprocessing
        dataset = open_some(job.data, recipe, job.samples, job.seed)
        return Probe(bundle.variant_file("fp32"), len(dataset)), dataset, recipe
