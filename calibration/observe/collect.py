"""One streaming pass over calibration images: extremes, histograms and channel means of every tensor that matters.

Runs the FP32 ONNX file in ONNX Runtime with the statistics inside the graph (`probe`). Memory is bounded by tensors
times bins and counted values, plus the activations of a batch for each core.
"""

import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from resnetrt.bundle import Bundle, sha256_of
from resnetrt.calibration.graph.structure import residual_adds
from resnetrt.calibration.images.data import Dataset, open_dataset
from resnetrt.calibration.observe.equalize import Factors, changed_by, find_factors
from resnetrt.calibration.observe.histogram import Histogram
from resnetrt.calibration.observe.probe import Group, Measured, Probe
from resnetrt.calibration.observe.seen import Seen, see
from resnetrt.calibration.observe.unlike import unlike_golden
from resnetrt.calibration_record import FILE, CalibrationRecord, TensorStatistics
from resnetrt.errors import DataError, UsageError
from resnetrt.export.variants.parity import fp32_outputs, run_onnx
from resnetrt.export.variants.store import dependents, drop_variants
from resnetrt.golden import Golden
from resnetrt.manifest import VariantRecord
from resnetrt.preprocess import FloatArray, Preprocessing
from resnetrt.progress import track

_log = logging.getLogger("resnetrt.calibration")
_BATCH_BYTES = 64 << 20  # activations of one batch; each running thread holds one batch
_MAX_BATCH = 16
_EQUALIZING = 128  # images that decide the equalization: 32 are worth 0.3 dB less, 512 no more

# what each batch of so many images showed, in order
Runner = Callable[[Probe, Dataset, Preprocessing, int], Iterable[Seen]]


def calibrate(
    model_path: Path, dataset: Dataset, preprocessing: Preprocessing, equalized: bool = False
) -> CalibrationRecord:
    """Run every image of `dataset` through the FP32 ONNX model and return the record.

    With `equalized` it is the record of the equalized model (see `equalize`), with factors from the first images. If
    the equalized model computes something else, equalization is left out, with a warning in the log. Raises `DataError`
    naming the tensor when an activation is NaN, infinite or constant. A tensor may be constant only if residual adds
    are its only readers: the output of a branch whose last BatchNorm still has scale 0 is constant.
    """
    trial = None
    if equalized:
        images = preprocessing.normalize(next(dataset.batches(_MAX_BATCH)).frames)
        trial = _Trial(model_path, images, run_onnx(model_path, images, as_written=True))
    return _collect(Probe(model_path, len(dataset)), dataset, preprocessing, trial, run_here)


def calibrate_bundle(
    bundle: Bundle,
    data: str,
    samples: int,
    seed: int = 0,
    equalized: bool = True,
    runner: Runner | None = None,
    overwrite: bool = False,
) -> CalibrationRecord:
    """Calibrate on at most `samples` images of the data set `data` and store the record in the bundle.

    Variants made from another record are dropped, with their casts and engines, because the old record holds the hashes
    of their images, on which they must not be judged; without `overwrite` that raises `UsageError`, and nothing
    changes. The same images and options give the same record. `runner` runs the batches, by default on the cores of
    this machine. Images that look unlike the golden ones are a warning in the log.
    """
    preprocessing, path = bundle.manifest.preprocessing, bundle.variant_file("fp32")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_some, data, preprocessing, samples, seed)
        probe = Probe(path, samples)  # made meanwhile
        dataset = opening.result()
    if len(dataset) < samples:
        probe = Probe(path, len(dataset))
    before = CalibrationRecord.of(bundle)
    if before is not None and (before.dataset, len(before.image_hashes)) != (dataset.name, len(dataset)):
        _check_loss(bundle, before, None, overwrite)  # at once, as it will be another record
    golden = Golden.of(bundle)
    if unlike := unlike_golden(dataset, golden.frames):
        _log.warning("calibration images look unlike the golden ones: %s; use images like those it will see", unlike)
    trial = None
    if equalized:
        trial = _Trial(path, preprocessing.normalize(golden.frames), fp32_outputs(bundle), golden.noise)
    record = _collect(probe, dataset, preprocessing, trial, runner or run_here)
    blob = record.to_bytes()
    sha256 = hashlib.sha256(blob).hexdigest()
    if before is not None:
        _check_loss(bundle, before, sha256, overwrite)
    with bundle.edit() as editor:
        editor.write(FILE, blob)
        drop_variants(editor, _made_from_another(sha256))
    return record


def _made_from_another(sha256: str | None) -> Callable[[VariantRecord], bool]:
    """Whether a variant comes from a calibration record that has another hash."""
    return lambda made: made.evidence.get("calibration_sha256") not in (None, sha256)


def _check_loss(bundle: Bundle, before: CalibrationRecord, sha256: str | None, overwrite: bool) -> None:
    """Raise `UsageError` if a record of another hash than the present one would drop something."""
    variants, engines = dependents(bundle.manifest, _made_from_another(sha256))
    if variants and not overwrite:
        lost = f"variants {', '.join(variants)}" + (f" and engines {', '.join(engines)}" if engines else "")
        raise UsageError(
            f"bundle {bundle.path}: another record than that of {len(before.image_hashes)} images of {before.dataset} "
            f"drops what was made from it: {lost}; add --overwrite, or calibrate a copy"
        )


def open_some(data: str, preprocessing: Preprocessing, samples: int, seed: int) -> Dataset:
    """At most `samples` images of a data set."""
    dataset = open_dataset(data, preprocessing, labelled=False)
    return dataset.subset(samples, seed) if len(dataset) > samples else dataset


@dataclass(frozen=True)
class _Trial:
    """The network at `path` before and after equalization, on `images` float32 `(N, C, H, W)`.

    `expected` `(N, classes)` is what it gives before, `noise` eager's own.
    """

    path: Path
    images: FloatArray
    expected: FloatArray
    noise: float = 0.0

    def accepted(self, factors: Factors) -> Factors:
        """`factors`, or none if the network is another one with them."""
        wrong = changed_by(self.path, factors, self.expected, self.images, self.noise)
        if wrong:
            _log.warning("channels are not equalized: the network would compute something else (%s)", wrong)
        return {} if wrong else factors


def _collect(
    probe: Probe, dataset: Dataset, preprocessing: Preprocessing, trial: _Trial | None, runner: Runner
) -> CalibrationRecord:
    """Statistics of the equalized network are the network's own, divided by the factors: no second pass is needed.

    The network is equalized if there is a `trial`, with the factors that it accepts.
    """
    size = _batch_size(probe.watched)
    batches = track(runner(probe, dataset, preprocessing, size), "calibrating", len(dataset), "images", size)
    hashes: list[str] = []
    statistics: list[_Statistics] = []
    factors: Factors = {}
    for several in _several(batches):
        hashes += [text for seen in several for text in seen.hashes]
        groups = [list(parts) for parts in zip(*(seen.measured for seen in several), strict=True)]
        if not statistics:
            factors = trial.accepted(_find_factors(probe, groups)) if trial is not None else {}
            statistics = [
                _statistics(group, parts[0], factors) for group, parts in zip(probe.groups, groups, strict=True)
            ]
        for statistic, parts in zip(statistics, groups, strict=True):
            statistic.add(parts)
    added = {value.name or "" for value in probe.watched if all(use.node.op_type == "Add" for use in value.uses())}
    tensors = dict(item for statistic in statistics for item in statistic.tensors(added))
    return CalibrationRecord(dataset.name, sha256_of(probe.path), tuple(hashes), tensors, factors)


def run_here(probe: Probe, dataset: Dataset, preprocessing: Preprocessing, size: int) -> Iterator[Seen]:
    """What each batch showed, in order; further batches run while the caller counts this one."""
    pending: deque[Future[Seen]] = deque()
    with ThreadPoolExecutor(probe.workers) as pool:
        for batch in dataset.batches(size):
            pending.append(pool.submit(see, probe, batch.frames, preprocessing))
            if len(pending) > 3 * probe.workers:
                yield pending.popleft().result()
        for run in pending:
            yield run.result()


def _several(batches: Iterable[Seen]) -> Iterator[list[Seen]]:
    """Groups of batches with at least `_EQUALIZING` images each; the last group may have fewer."""
    several: list[Seen] = []
    for seen in batches:
        several.append(seen)
        if sum(len(batch.hashes) for batch in several) >= _EQUALIZING:
            yield several
            several = []
    if several:
        yield several


def _find_factors(probe: Probe, seen: list[list[Measured]]) -> Factors:
    """Equalization factors from the channels' extremes; the ranges of main branches of adds are ignored."""
    main = {add.main.name for add in residual_adds(probe.graph)}
    amax: Factors = {}
    for group, parts in zip(probe.groups, seen, strict=True):
        peaks = np.maximum(*(np.abs(_joined(parts, field)).max(0) for field in ("low", "high")))
        amax |= {name: peak for name, peak in zip(group.names, peaks, strict=True) if name not in main}
    return find_factors(probe.graph, amax)


def _joined(parts: list[Measured], field: str) -> FloatArray:
    return np.concatenate([getattr(part, field) for part in parts])


def _statistics(group: Group, part: Measured, factors: Factors) -> "_Statistics":
    one = np.ones(part.high.shape[2])
    return _Statistics(group, np.array([factors.get(name, one) for name in group.names], np.float32))


class _Statistics:
    """Statistics of the tensors of one group, divided by their `factors` `(k, C)`."""

    def __init__(self, group: Group, factors: FloatArray) -> None:
        self._group = group
        self._factors = factors
        self._low, self._high = np.full_like(factors, np.inf), np.full_like(factors, -np.inf)
        self._sums, self._images = np.zeros(factors.shape), 0
        self._extremes: list[FloatArray] = []
        self._histograms = [Histogram() for _ in group.names]

    def add(self, parts: list[Measured]) -> None:
        for part in parts:
            low, high = part.low.min(0) / self._factors, part.high.max(0) / self._factors
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
            self._sums += part.mean.sum(0, dtype=np.float64)
            self._images += len(part.mean)
            self._extremes.append(np.stack([low.min(1), high.max(1)], 1))
        extremes = np.stack(self._extremes[-len(parts) :])
        for i, histogram in enumerate(self._histograms):
            values = np.concatenate([part.values[:, i] for part in parts])
            values /= self._factors[i, :, None]
            histogram.add(values, float(extremes[:, i, 0].min()), float(extremes[:, i, 1].max()))

    def tensors(self, may_be_constant: set[str]) -> Iterator[tuple[str, TensorStatistics]]:
        """The statistics of each. Raises `DataError` naming the first that is constant and may not be."""
        means = self._sums / self._images / self._factors
        amax = np.maximum(np.abs(self._low), np.abs(self._high)).astype(np.float64)
        for i, name in enumerate(self._group.names):
            histogram = self._histograms[i]
            if name not in may_be_constant:
                self._check_varies(name, self._low[i], self._high[i])
            extremes = np.stack([batch[i] for batch in self._extremes])
            yield (
                name,
                TensorStatistics(
                    histogram.minimum, histogram.maximum, histogram.bound, histogram.counts, means[i], amax[i], extremes
                ),
            )

    def _check_varies(self, name: str, low: FloatArray, high: FloatArray) -> None:
        """Whether some channel differs between pixels or images; pooled tensors of a single image can't tell."""
        single = low.min() == high.max()
        if single or (self._group.pixels != 1 and (low == high).all()):
            value = f"{low.min():g}" if single else "in every channel"
            raise DataError(
                f"calibration: tensor {name} is constant ({value}) over all images; "
                "check that the images are not blank and the weights not dead"
            )


def _batch_size(watched: list[ir.Value]) -> int:
    """As many images as keep the watched activations of a batch under `_BATCH_BYTES`."""
    per_image = 0
    for value in watched:
        shape = [] if value.shape is None else list(value.shape)[1:]
        per_image += 4 * math.prod(dim if isinstance(dim, int) else 1 for dim in shape)
    return max(1, min(_MAX_BATCH, _BATCH_BYTES // max(per_image, 1)))
