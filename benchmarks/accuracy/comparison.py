"""Accuracy of engines against the reference over the same images in one pass: the `engines[]` rows of `evaluate`.

The answer of every engine for every image is kept, so rows and verdicts can be computed again without a model.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import tee
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resnetrt.benchmarks.accuracy.groups import group_weights
from resnetrt.benchmarks.measure.latency import Infer
from resnetrt.benchmarks.stats.noninferiority import drop_interval
from resnetrt.calibration.images.data import Batch, Dataset, IntArray, pixel_hash
from resnetrt.errors import CheckFailed, DataError, UsageError
from resnetrt.parity import SQNR_CAP_DB
from resnetrt.preprocess import FloatArray, Preprocessing
from resnetrt.progress import track
from resnetrt.runtime.batches import OnSession

_TOP = 5


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One engine's answers, per image; every array is `(N,)`.

    `predicted` is the class of the largest logit, `top5` whether the label is among the five largest, `margin` the
    largest logit minus the second, `signal` the sum of the squared logits, `noise` that of their squared errors,
    `confidence` the largest softmax probability.
    """

    predicted: IntArray
    top5: npt.NDArray[np.bool_]
    margin: npt.NDArray[np.float64]
    signal: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]

    @classmethod
    def concatenate(cls, parts: "Sequence[Outcomes]") -> "Outcomes":
        """The outcomes of several batches as one."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def at(self, rows: npt.ArrayLike) -> "Outcomes":
        """The outcomes of the images at `rows`."""
        chosen = np.asarray(rows)
        return Outcomes(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True)
class AccuracyRow:
    """An engine beside the reference over the same `n` images: shares in percent, drops in percentage points.

    With `groups`, which counts them, every group has the same weight, however many images it has. `drop_ci_pp` is
    two-sided, 95 %. `calibration_overlap` counts images that calibration used too; None if that is unknown.
    """

    engine: str
    n: int
    groups: int | None
    fp32_top1: float
    top1: float
    fp32_top5: float
    top5: float
    drop_pp: float
    drop_ci_pp: tuple[float, float]
    flips_percent: float
    sqnr_db: float
    calibration_overlap: int | None

    def to_json(self) -> dict[str, Any]:
        """The row of an engine without the gate's part."""
        return asdict(self) | {"drop_ci_pp": list(self.drop_ci_pp), "verdict": None}


@dataclass(frozen=True, eq=False)
class PairedOutcomes:
    """Per-image outcomes over the same images; `indices` and `labels` `(N,)` as in the data set.

    `images` `(N,)` are 64 bits of each image's `pixel_hash`, by which two runs are paired. `calibration_overlap` counts
    images that calibration used too; None if that is unknown. `groups` `(N,)` is the number of each image's group (see
    `resnetrt.benchmarks.accuracy.groups`); None if every image is a group of its own.
    """

    indices: IntArray
    labels: IntArray
    images: npt.NDArray[np.uint64]
    reference: Outcomes
    candidates: dict[str, Outcomes]
    calibration_overlap: int | None
    groups: IntArray | None = None

    @property
    def count(self) -> int:
        """The number of groups; without groups, the number of images."""
        return len(self.labels) if self.groups is None else len(np.unique(self.groups))

    def at(self, rows: npt.ArrayLike) -> "PairedOutcomes":
        """The comparison of the images at `rows`."""
        chosen = np.asarray(rows)
        return replace(
            self,
            indices=self.indices[chosen],
            labels=self.labels[chosen],
            images=self.images[chosen],
            reference=self.reference.at(chosen),
            candidates={name: outcomes.at(chosen) for name, outcomes in self.candidates.items()},
            groups=None if self.groups is None else self.groups[chosen],
        )

    def distinct(self) -> "PairedOutcomes":
        """The first of each set of pixel-identical images; images that occur with several labels are left out.

        A copy tells nothing new. If an image has two labels, whether an answer is right depends on which copy is
        counted. Raises `DataError` if no image is left.
        """
        _, first, place = np.unique(self.images, return_index=True, return_inverse=True)
        torn = np.zeros(len(first), bool)
        torn[place[self.labels != self.labels[first][place]]] = True
        if torn.all():
            raise DataError("expected images with one label each, found every image again under another; check labels")
        return self.at(np.sort(first[~torn]))

    def rows(self) -> list[dict[str, Any]]:
        """The `accuracy` of every candidate as JSON."""
        return [row.to_json() for row in self.accuracy()]

    def accuracy(self) -> list[AccuracyRow]:
        """One row per candidate."""
        return [self._row(name, outcomes) for name, outcomes in self.candidates.items()]

    def _row(self, name: str, outcomes: Outcomes) -> AccuracyRow:
        right, reference_right = outcomes.predicted == self.labels, self.reference.predicted == self.labels
        weights, n = group_weights(self.groups, len(self.labels)), self.count

        def percent(hits: npt.NDArray[np.bool_]) -> float:
            return 100 * float(weights[hits].sum()) / n

        lost, gained = (float(weights[hits].sum()) for hits in (reference_right & ~right, right & ~reference_right))
        low, high = drop_interval(lost, gained, n)
        return AccuracyRow(
            engine=name,
            n=len(self.labels),
            groups=None if self.groups is None else n,
            fp32_top1=percent(reference_right),
            top1=percent(right),
            fp32_top5=percent(self.reference.top5),
            top5=percent(outcomes.top5),
            drop_pp=100 * (lost - gained) / n,
            drop_ci_pp=(100 * low, 100 * high),
            flips_percent=percent(outcomes.predicted != self.reference.predicted),
            sqnr_db=_sqnr_db(self.reference.signal, outcomes.noise),
            calibration_overlap=self.calibration_overlap,
        )


@dataclass(frozen=True, eq=False)
class BatchOutcomes:
    """Every engine's outcomes on one batch; the reference's come first."""

    images: npt.NDArray[np.uint64]
    outcomes: tuple[Outcomes, ...]
    overlap: int


class Journal(Protocol):
    """Where finished batches are kept, so that a killed run can be resumed."""

    def finished(self) -> list[BatchOutcomes]:
        """The batches that are finished, in order."""
        ...

    def add(self, part: BatchOutcomes) -> None:
        """Store one more batch."""
        ...


Engine = Infer | OnSession
# maps the position of the first image and the batch size to the outcomes of all batches from there on, in order
Runner = Callable[[int, int], Iterable[BatchOutcomes]]


def compare_accuracy(
    reference: Infer,
    candidates: Mapping[str, Engine],
    dataset: Dataset,
    preprocessing: Preprocessing,
    calibration_hashes: Collection[str] | None = None,
    allow_overlap: bool = False,
    batch_size: int = 50,
    journal: Journal | None = None,
    runner: Runner | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PairedOutcomes:
    """Run `reference` and `candidates` once over every image of `dataset`, except batches that `journal` already has.

    A `runner` runs the batches elsewhere, with the same engines. If `stop` is true after a batch, the remaining images
    are left out, as if they were not in the data.

    Every engine maps float32 `(n, C, H, W)` to logits `(n, classes)`. Raises `UsageError` for data without labels,
    `DataError` for labels beyond the classes and for images whose `pixel_hash` is in `calibration_hashes` (unless
    `allow_overlap`), `CheckFailed` for outputs that are not logits.
    """
    if not dataset.labelled:
        raise UsageError(f"data {dataset.name}: expected labels to compare with, found images without; add labels")
    known = None if calibration_hashes is None else frozenset(calibration_hashes)
    engines = by_title(reference, candidates)
    parts = [] if journal is None else journal.finished()
    start = sum(len(part.images) for part in parts)

    def run_here(first: int, size: int) -> Iterable[BatchOutcomes]:
        batches = dataset.select(np.arange(first, len(dataset))).batches(size)
        return run_batches(engines, batches, dataset, preprocessing, known, allow_overlap)

    measured = (runner or run_here)(start, batch_size) if start < len(dataset) else ()
    for part in track(measured, "evaluating", len(dataset), "images", batch_size, done=start):
        parts.append(part)
        if journal is not None:
            journal.add(part)
        if stop():
            dataset = dataset.select(np.arange(sum(len(part.images) for part in parts)))
            break
    whole = [Outcomes.concatenate(same) for same in zip(*(part.outcomes for part in parts), strict=True)]
    images = np.concatenate([part.images for part in parts])
    overlap = None if known is None else sum(part.overlap for part in parts)
    by_name = dict(zip(candidates, whole[1:], strict=True))
    return PairedOutcomes(dataset.indices, dataset.labels, images, whole[0], by_name, overlap)


def by_title(reference: Infer, candidates: Mapping[str, Engine]) -> dict[str, Engine]:
    """The reference and the candidates by the names used in messages, the reference first."""
    return {"reference": reference, **{f"engine {name}": infer for name, infer in candidates.items()}}


def run_batches(
    engines: Mapping[str, Engine],
    batches: Iterable[Batch],
    dataset: Dataset,
    preprocessing: Preprocessing,
    known: frozenset[str] | None,
    allow_overlap: bool,
) -> Iterator[BatchOutcomes]:
    """The outcomes of every engine, the reference first, batch by batch; raises as `compare_accuracy` does.

    An engine on a GPU takes one batch more than the others, and computes it while the reference does the one before.
    """
    own, *feeds = tee(_prepare(batches, dataset, preprocessing, known, allow_overlap), 1 + len(engines))
    answers = [_answers(engine, feed) for engine, feed in zip(engines.values(), feeds, strict=True)]
    for prepared in own:
        batch, expected = prepared.batch, None
        outcomes = []
        for name, answered in zip(engines, answers, strict=True):
            logits = _checked(np.asarray(next(answered)), batch, dataset, name, expected)
            expected = logits if expected is None else expected
            outcomes.append(judge(logits, expected, batch.labels))
        short = np.array([int(item[:16], 16) for item in prepared.hashes], np.uint64)
        yield BatchOutcomes(short, tuple(outcomes), prepared.overlap)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A batch with its preprocessed images, their hashes, and how many of them calibration used."""

    batch: Batch
    images: FloatArray
    hashes: Sequence[str]
    overlap: int


def _prepare(
    batches: Iterable[Batch],
    dataset: Dataset,
    preprocessing: Preprocessing,
    known: frozenset[str] | None,
    allow_overlap: bool,
) -> Iterator[_Prepared]:
    for batch in batches:
        hashes = [pixel_hash(frame) for frame in batch.frames]
        overlap = _overlap(batch, hashes, known or frozenset(), dataset, allow_overlap)
        yield _Prepared(batch, preprocessing.normalize(batch.frames), hashes, overlap)


def _answers(engine: Engine, feed: Iterable[_Prepared]) -> Iterator[npt.NDArray[np.generic]]:
    """What the engine gives for one batch after the other."""
    if not isinstance(engine, OnSession):
        return (engine(prepared.images) for prepared in feed)
    return engine.each(prepared.batch.frames if engine.takes_frames else prepared.images for prepared in feed)


def judge(logits: FloatArray, reference: FloatArray, labels: IntArray) -> Outcomes:
    """Outcomes of `logits` `(n, classes)` for `labels`.

    Equal logits rank by class index, so an engine with constant outputs is right only by chance.
    """
    out, ref = logits.astype(np.float64), reference.astype(np.float64)
    own = np.take_along_axis(out, labels[:, None], 1)
    before = (out > own) | ((out == own) & (np.arange(out.shape[1]) < labels[:, None]))
    largest = np.sort(out, axis=1)[:, -2:]
    rest = np.exp(out - largest[:, -1:]).sum(1)
    return Outcomes(
        predicted=out.argmax(1).astype(np.int64),
        top5=before.sum(1) < _TOP,
        margin=largest[:, -1] - largest[:, 0],
        signal=np.square(out).sum(1),
        noise=np.square(out - ref).sum(1),
        confidence=1 / rest,
    )


def _overlap(batch: Batch, hashes: Sequence[str], known: frozenset[str], dataset: Dataset, allowed: bool) -> int:
    seen = [index for index, item in zip(batch.indices, hashes, strict=True) if item in known]
    if seen and not allowed:
        raise DataError(
            f"data {dataset.name}: expected images that calibration has not used, found {len(seen)} of "
            f"{len(batch.frames)}, first {dataset.identity(int(seen[0]))}; evaluate on other images"
        )
    return len(seen)


def _checked(
    logits: npt.NDArray[np.generic], batch: Batch, dataset: Dataset, name: str, expected: FloatArray | None
) -> FloatArray:
    n = len(batch.labels)
    shape = f"({n}, classes)" if expected is None else str(expected.shape)
    if logits.ndim != 2 or len(logits) != n or (expected is not None and logits.shape != expected.shape):
        raise CheckFailed(f"{name}: expected outputs of shape {shape}, found {logits.shape}; verify the engine")
    values = np.asarray(logits, np.float32)
    finite = np.isfinite(values).all(1)
    if not finite.all():
        image = dataset.identity(int(batch.indices[int(np.argmin(finite))]))
        raise CheckFailed(f"{name}: expected finite outputs, found NaN or infinity for {image}; verify the engine")
    classes = values.shape[1]
    if expected is None and (batch.labels >= classes).any():
        row = int(np.argmax(batch.labels >= classes))
        raise DataError(
            f"data {dataset.name}: expected labels 0 to {classes - 1}, found {batch.labels[row]} for "
            f"{dataset.identity(int(batch.indices[row]))}; use the data of this model"
        )
    return values


def _sqnr_db(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> float:
    """As `resnetrt.parity.sqnr_db`, from sums per image."""
    if noise.sum() <= 0:
        return SQNR_CAP_DB
    return min(SQNR_CAP_DB, float(10 * np.log10(max(float(signal.sum()), 1e-300) / float(noise.sum()))))
