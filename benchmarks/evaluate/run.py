"""The accuracy gate over a bundle: run or resume, store, judge, explain."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy.classes import class_drops
from resnetrt.benchmarks.accuracy.comparison import Engine, PairedOutcomes, compare_accuracy
from resnetrt.benchmarks.accuracy.content import batch_hashes, joined_hash
from resnetrt.benchmarks.accuracy.gate import DATA, FAIL, PASS, REFERENCE, SELFTEST
from resnetrt.benchmarks.accuracy.gate_rows import GateRow, Look, gate_rows
from resnetrt.benchmarks.accuracy.groups import read_groups
from resnetrt.benchmarks.accuracy.looks import Looks, look_spending
from resnetrt.benchmarks.accuracy.outcomes import FileJournal, write_results
from resnetrt.benchmarks.accuracy.releases import BaselineRun, ReleaseRow, compare_releases
from resnetrt.benchmarks.accuracy.request import GateRequest, open_engines, open_images
from resnetrt.benchmarks.cluster.evaluate import runner_on_ray
from resnetrt.benchmarks.evaluate.flips import worst_flips
from resnetrt.benchmarks.evaluate.hints import (
    IMAGES,
    MOST_IMAGES,
    engine_preprocessing,
    leaves_room,
    reference_preprocessing,
)
from resnetrt.benchmarks.evaluate.label_map import can_learn, label_map
from resnetrt.benchmarks.evaluate.record import EvaluatedEngine, EvaluateRecord
from resnetrt.benchmarks.evaluate.scales import scale_faults
from resnetrt.benchmarks.verify.reference import Reference, find_reference
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Dataset, IntArray
from resnetrt.calibration_record import FILE as CALIBRATION
from resnetrt.calibration_record import IMAGES_FILE, calibration_hashes
from resnetrt.conditions import conditions, tool_versions
from resnetrt.errors import BackendMissing
from resnetrt.export.engines.here import engines_here
from resnetrt.preprocess import FloatArray, UInt8Array
from resnetrt.runtime.batches import OnSession

_SHOWN_FLIPS = 48
_log = logging.getLogger("resnetrt.evaluate")


@dataclass(frozen=True)
class GateRun:
    """What was found, and the `comparison` and the `dataset` that it was made from."""

    evaluated: EvaluateRecord
    comparison: PairedOutcomes
    dataset: Dataset

    @property
    def record(self) -> dict[str, Any]:
        """The object of `evaluate --json`."""
        return self.evaluated.to_json()


def run_gate(bundle: Bundle, request: GateRequest) -> GateRun:
    """Evaluate engines of `bundle` as `request` says.

    With a budget, an engine that fails its self-test is still measured, so that the cause can be named, but it can't
    pass. Raises `UsageError`, `DataError` (also for images that calibration has used), `BackendMissing`, and
    `CheckFailed` for outputs that are not finite.
    """
    names = [bundle.select_engine(name) for name in request.engines]
    if not names:
        names, elsewhere = engines_here(bundle)
        for name, why in elsewhere.items():
            _log.warning("%s is not evaluated: %s", name, why)
    baseline = None if request.baseline is None else BaselineRun.read(request.baseline)
    # every verdict that may FAIL, and so fail the command; pairing errors, too, show before the long run
    verdicts = len(names) + (0 if baseline is None else len(baseline.pair(names, request.renamed)))
    dataset = open_images(bundle, request)
    groups = None if request.group_by is None else read_groups(dataset, request.group_by)
    looks = None if request.results is None else Looks.read(request.results)
    reference = find_reference(bundle, request.weights)
    with open_engines(bundle, names, request.budget is not None) as (engines, faults):
        comparison, numbers = _compare(bundle, request, dataset, groups, reference, engines, looks)
        spendings = {name: look_spending(number or 1, verdicts) for name, number in numbers.items()}
        looks_at = {name: Look(number, verdicts) for name, number in numbers.items()}
        rows = [
            replace(row, look=looks_at[row.engine])
            for row in gate_rows(comparison, request.budget, dataset.class_names, spendings)
        ]
        distinct = comparison.distinct()
        described = [_describe(row, distinct, dataset, faults) for row in rows]
        if request.budget is not None:
            described = _explain(described, distinct, bundle, dataset, reference, engines)
    since: list[ReleaseRow] = []
    if baseline is not None and request.budget is not None:
        whole = not request.engines
        changes = compare_releases(comparison, baseline, request.budget, request.renamed, whole, spendings)
        unlooked = Look(None, verdicts)
        since = [replace(row, look=looks_at.get(row.engine, unlooked)) for row in changes]
    return GateRun(_record(bundle, request, described, since, reference), comparison, dataset)


def _compare(
    bundle: Bundle,
    request: GateRequest,
    dataset: Dataset,
    groups: IntArray | None,
    reference: Reference,
    engines: dict[str, Engine],
    looks: Looks | None,
) -> tuple[PairedOutcomes, dict[str, int | None]]:
    """The outcomes, stored if asked for, and the number of this look at each engine; None if looks are not kept."""
    journal, numbers = None, dict.fromkeys(engines)
    # hash the images only for a run that may be resumed, or that runs elsewhere
    bound = request.results is not None or request.ray is not None
    hashes = batch_hashes(dataset, request.batch_size) if bound else []
    key = _key(bundle, request, hashes, len(dataset), reference, list(engines))
    if request.results is not None:
        journal = FileJournal(request.results.with_name(request.results.name + ".journal"), key)
    runner = None
    if request.ray is not None:
        runner = runner_on_ray(bundle, request, reference.name, list(engines), len(dataset), hashes)
    comparison = compare_accuracy(
        reference.infer,
        engines,
        dataset,
        bundle.manifest.preprocessing,
        calibration_hashes(bundle),
        request.allow_overlap,
        request.batch_size,
        journal,
        runner,
    )
    comparison = replace(comparison, groups=groups)
    if request.results is not None and journal is not None and looks is not None:
        numbers |= looks.add(key, comparison)
        about = key | {"looks": looks.to_json(), "conditions": conditions(), "class_names": list(dataset.class_names)}
        write_results(request.results, comparison, about)
        journal.remove()
    return comparison, numbers


def _key(
    bundle: Bundle, request: GateRequest, hashes: list[str], count: int, reference: Reference, names: list[str]
) -> dict[str, Any]:
    """Everything that a run depends on; a journal with a different key belongs to another run."""
    files, engines = bundle.manifest.files, bundle.manifest.engines
    return {
        "data": request.data,
        "n": count,
        "images_sha256": joined_hash(hashes),
        "preprocessing": bundle.manifest.preprocessing.to_json(),
        "reference": reference.name,
        "fp32_sha256": files[bundle.variant("fp32").file].sha256,
        "engines": {name: files[engines[name].file].sha256 for name in names},
        "calibration_sha256": next((files[name].sha256 for name in (CALIBRATION, IMAGES_FILE) if name in files), None),
        "versions": tool_versions(),
        "bundle": bundle.manifest.name,
        "allow_overlap": request.allow_overlap,
        "batch_size": request.batch_size,
    }


def _describe(row: GateRow, comparison: PairedOutcomes, dataset: Dataset, faults: dict[str, str]) -> EvaluatedEngine:
    """The row with classes, flips and the self-test's findings; an engine that failed its self-test does not pass."""
    names, candidate, decision = list(dataset.class_names), comparison.candidates[row.engine], row.decision
    flips = worst_flips(comparison, row.engine, _SHOWN_FLIPS, names, dataset.identity)
    classes = None
    if decision is not None:
        drops = class_drops(comparison.reference, candidate, comparison.labels, names, comparison.groups)
        classes = tuple(drops)
        if row.engine in faults and (decision.verdict == PASS or decision.why == DATA):
            row = row.overruled(SELFTEST)
    return EvaluatedEngine(row, faults.get(row.engine), tuple(flips), classes)


def _explain(
    rows: Sequence[EvaluatedEngine],
    comparison: PairedOutcomes,
    bundle: Bundle,
    dataset: Dataset,
    reference: Reference,
    engines: dict[str, Engine],
) -> list[EvaluatedEngine]:
    """The rows with `hints` on failures; if the reference itself is wrong for a known cause, every engine fails."""
    few = dataset.subset(min(MOST_IMAGES, len(dataset)))

    @cache
    def frames() -> UInt8Array:
        return next(few.batches(len(few))).frames

    preprocessing, names, classes = bundle.manifest.preprocessing, dataset.class_names, bundle.manifest.classes
    # if labels are renamed, every recipe looks wrong, and the least wrong one means nothing
    shared = label_map(comparison.labels, comparison.reference.predicted, classes, names, "labels and reference")
    right = comparison.indices[comparison.reference.predicted == comparison.labels]  # copies left out count as wrong
    if shared is None and leaves_room(np.isin(few.indices, right), few.labels):
        shared = reference_preprocessing(reference.infer, frames(), few.labels, preprocessing)
    explained = []
    for row in rows:
        hints, gate, name = [], row.gate, row.gate.engine
        if shared:
            hints, gate = [shared], gate.overruled(REFERENCE)
        elif gate.verdict == FAIL:
            hints = _engine_hints(name, comparison, bundle, frames()[:IMAGES], reference, engines[name], names)
        if row.selftest:
            hints.append(f"self-test: {row.selftest}")
        explained.append(replace(row, gate=gate, hints=tuple(hints)))
    return explained


def _engine_hints(
    name: str,
    comparison: PairedOutcomes,
    bundle: Bundle,
    frames: UInt8Array,
    reference: Reference,
    engine: Engine,
    class_names: Sequence[str],
) -> list[str]:
    preprocessing = bundle.manifest.preprocessing
    images = preprocessing.normalize(frames)
    logits = _whole(engine, frames, images)
    tries: list[Callable[[], str | None]] = [
        lambda: engine_preprocessing(logits, reference.infer, frames, preprocessing),
        lambda: label_map(
            comparison.reference.predicted,
            comparison.candidates[name].predicted,
            bundle.manifest.classes,
            class_names,
            "reference and engine",
        ),
        lambda: _scale_hint(bundle, name, images),
    ]
    hints = [hint for attempt in tries if (hint := attempt())]
    learnt = "" if can_learn() else ", and of renamed classes only the usual orders were tried (any other needs scipy)"
    next_step = f"find the block with: resnetrt verify BUNDLE --bisect --engine {name}"
    return hints or [f"no usual mistake explains it{learnt}; {next_step}"]


def _whole(engine: Engine, frames: UInt8Array, images: FloatArray) -> FloatArray:
    if isinstance(engine, OnSession) and engine.takes_frames:
        return np.array(engine(frames))
    return np.array(engine(images))


def _scale_hint(bundle: Bundle, engine: str, images: FloatArray) -> str | None:
    made = bundle.manifest.engines[engine]
    record = bundle.manifest.variants.get(made.variant)
    if record is None or record.precision != "int8" or record.input != "float32":
        return None
    name = made.file if made.file.endswith(".onnx") else record.file  # the file that runs, if it can be read
    try:
        faults = scale_faults(bundle.file(name), images[:32], bundle.variant_file("fp32"))
    except BackendMissing:
        return None
    if not faults:
        return None
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"bad scale: tensor {faults[0].tensor}: {faults[0].words}{more}; calibrate and quantize again"


def _record(
    bundle: Bundle,
    request: GateRequest,
    rows: Sequence[EvaluatedEngine],
    baseline: Sequence[ReleaseRow],
    reference: Reference,
) -> EvaluateRecord:
    return EvaluateRecord(
        bundle=str(bundle.path),
        data=request.data,
        reference=reference.name,
        reference_why=reference.why,
        budget=request.budget,
        engines=tuple(rows),
        baseline=tuple(baseline),
        group_by=request.group_by,
        results=None if request.results is None else str(request.results),
        conditions=conditions(),
    )
