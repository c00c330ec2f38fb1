"""Search a bundle's mixed-precision variant: split the data, measure, search, confirm, store."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from resnetrt.benchmarks.accuracy.comparison import Engine, PairedOutcomes, compare_accuracy
from resnetrt.benchmarks.accuracy.gate import PASS, Budget, doubt_of
from resnetrt.benchmarks.accuracy.gate_rows import GateRow, gate_rows
from resnetrt.benchmarks.accuracy.plan import fewest_images
from resnetrt.benchmarks.measure.latency import Infer
from resnetrt.benchmarks.measure.timing import Schedule
from resnetrt.benchmarks.search.confirm import (
    ATTEMPTS,
    SURE,
    Confirmation,
    TrialToConfirm,
    chance_to_pass,
    corrected,
    drop_of_passed,
    halves,
    plan,
)
from resnetrt.benchmarks.search.front import FrontRow, measure_front
from resnetrt.benchmarks.search.minutes import Clock, OutOfTime, SearchTime
from resnetrt.benchmarks.search.race import Racer, noisiest_blocks, race, winner
from resnetrt.benchmarks.search.replay import DataHalf
from resnetrt.benchmarks.search.search_record import BlockRow, FactsRow, SearchRecord, StoredVariant
from resnetrt.benchmarks.search.strategy import Mix, Sensitivity, Trial, best, rank, search, widen
from resnetrt.benchmarks.search.trial_engines import Build, TrialEngines
from resnetrt.benchmarks.verify.blocks import find_blocks
from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import dialect as find_dialect
from resnetrt.calibration.images.data import Dataset, open_dataset
from resnetrt.calibration.quantize.quantize import QuantizeOptions, load_record, quantize_model
from resnetrt.calibration_record import CalibrationRecord, calibration_hashes
from resnetrt.errors import Inconclusive, UsageError
from resnetrt.export.cast.cast import rounded_outputs
from resnetrt.export.cast.recipes import record_of
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.variants.parity import golden_outputs, run_onnx
from resnetrt.export.variants.store import store_variant
from resnetrt.preprocess import FloatArray, UInt8Array
from resnetrt.progress import Say, track

_BATCH = 50
_SCORED = 32  # images for the cheap score
_SCHEDULE = Schedule(rounds=5, min_block_s=0.03, settle_s=0.01, warm_up_s=0.05)
_RACE = Schedule(rounds=11, min_block_s=0.05, settle_s=0.02, warm_up_s=0.1)  # three engines that decide everything else
_FINAL = Schedule(rounds=9, min_block_s=0.05, settle_s=0.02, warm_up_s=0.1)


@dataclass(frozen=True)
class SearchRequest:
    """At most `samples` images, half to search on and half to confirm; at most `minutes` for everything.

    With `overwrite` the variant that an earlier search stored may be replaced.

    Raises `UsageError` unless `minutes` are positive and finite.
    """

    data: str
    budget: Budget
    backend: str = "onnxruntime"
    target: str = "cpu"
    samples: int = 4000
    minutes: float = 30.0
    options: QuantizeOptions = field(default_factory=QuantizeOptions)
    build: Build | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise UsageError(f"--budget: expected a positive number of minutes, found {self.minutes}")


class SearchRun:
    """One search over a bundle; `run` returns the object of `search --json`. An interrupt keeps the best result so far.

    `left_out` says what the budget did not allow. `say` gets a line before a part begins.
    """

    def __init__(
        self, bundle: Bundle, request: SearchRequest, clock: Clock = time.monotonic, say: Say = lambda line: None
    ) -> None:
        compiler = find_compiler(request.backend)
        self.bundle = bundle
        self.say = say
        self.request = request = replace(request, target=compiler.resolve_target(request.target))
        self.blocks = find_blocks(bundle.variant_file("fp32"))
        self.dialect = find_dialect(compiler.DIALECT)
        self.variant = f"mixed.{self.dialect.name}"  # what a confirmed one is stored as
        self.trials: list[Trial] = []
        self.sensitivities: list[Sensitivity] = []
        self.racers: list[Racer] = []
        self.stopped = ""
        self.left_out: list[str] = []
        self.rows: dict[Mix, GateRow] = {}  # of the trials
        self.confirmations: list[Confirmation] = []
        self.time = SearchTime(60 * request.minutes, clock)

    def run(self) -> SearchRecord:
        """Search, confirm on the other half of the data, store the chosen variant and measure the Pareto front.

        Raises `Inconclusive` if the data is too small for even an unchanged network to pass, or if the reference is no
        better on the data than a constant answer; `UsageError` if there is a variant of an earlier search already.
        """
        if self.variant in self.bundle.manifest.variants and not self.request.overwrite:
            raise UsageError(
                f"bundle {self.bundle.path}: this would replace variant {self.variant}, which an earlier search "
                "stored; add --overwrite, or search a copy"
            )
        searching, held_out = self._split()
        with TemporaryDirectory(prefix="resnetrt-search-") as folder:
            engines = self.engines(Path(folder))
            try:
                self._announce(engines, searching)
                self._search(engines, searching)
            except (KeyboardInterrupt, OutOfTime) as stop:
                self.stopped = _why(stop)
            stored = self._confirm_one(engines, held_out)
            front = self._front(engines)
        return self._record(front, stored)

    def engines(self, folder: Path) -> TrialEngines:
        """The maker of this search's trials, with files in `folder`."""
        request = self.request
        build = request.build or self._quantize
        made_for = (self.bundle, request.backend, request.target)
        return TrialEngines(*made_for, self.blocks, build, folder, self.time.opened)

    def _announce(self, engines: TrialEngines, dataset: Dataset) -> None:
        """Say how many minutes it takes, by one batch of the reference and one trial."""
        self.time.images = len(dataset)
        few = dataset.select(np.arange(min(_BATCH, len(dataset))))
        started = self.time.clock()
        images = self.bundle.manifest.preprocessing.normalize(next(few.batches(_BATCH)).frames)
        self._reference(images)
        self.time.reference_s = (self.time.clock() - started) / len(few)
        with engines.open(Mix(frozenset())):
            pass  # to know how long a trial takes to make
        whole = self.time.whole(len(self.blocks), _SCORED, (_RACE, _SCHEDULE, _FINAL))
        then = "" if whole <= self.time.left() else ", and then ends with the best so far"
        self.say(
            f"search over {len(self.blocks)} blocks on {len(dataset)} images, about {whole / 60:.1f} minutes; "
            f"it may take {self.request.minutes:g} (--budget){then}"
        )

    def _search(self, engines: TrialEngines, dataset: Dataset) -> None:
        """Time the precisions, rank the blocks, and find how many of them to keep.

        If a 16-bit precision passes only with every block kept, which is the FP32 file, the search is repeated in FP32.
        """
        split = self._cached(dataset)
        right = split.logits.argmax(1) == dataset.labels
        doubt = doubt_of(right, dataset.labels, self.request.budget.confidence, dataset.class_names)
        if doubt is not None:  # no trial could pass
            raise Inconclusive(f"search on {self.request.data}: {doubt}")
        self.say("rank the blocks by noise and time")
        precision, ranking = self._rank(engines, dataset)

        def evaluate(mix: Mix) -> Trial:
            self._check_time(self.time.evaluation())
            self.say(f"try {engines.label(mix)}, about {self.time.evaluation():.0f} s")
            row = self.rows[mix] = self._evaluate(engines, split, mix)
            assert row.judged is not None
            return Trial(mix, row.verdict, row.judged.pairs)

        search(ranking, evaluate, self.trials, precision)
        chosen = best(self.trials)
        if precision != "fp32" and chosen is not None and engines.is_all(chosen.mix):
            precision = "fp32"
            search(ranking, evaluate, self.trials, fails=0, passes=len(ranking))
        strict = corrected(self.request.budget, ATTEMPTS)
        widen(
            ranking,
            evaluate,
            self.trials,
            precision,
            lambda trial: chance_to_pass(trial.pairs, strict, len(dataset)),
            SURE,
        )

    def _split(self) -> tuple[Dataset, Dataset]:
        manifest, request = self.bundle.manifest, self.request
        dataset = open_dataset(request.data, manifest.preprocessing, manifest.labels, classes=manifest.classes)
        dataset = dataset.subset(min(request.samples, len(dataset)))
        half = len(dataset) // 2
        needed = fewest_images(request.budget)  # for an unchanged network
        if half < needed:
            raise Inconclusive(
                f"search: expected enough images to tell {request.budget}, found {half} in each half of "
                f"{request.data}; even an unchanged network needs {needed - half} more in each; "
                "add images or raise the budget"
            )
        searching, held_out = halves(dataset.labels)
        return dataset.select(searching), dataset.select(held_out)

    def _cached(self, dataset: Dataset) -> DataHalf:
        """The images to search on and the reference's answers; their duration predicts that of other images."""
        started = self.time.clock()

        def infer(frames: UInt8Array) -> FloatArray:
            self._check_time()
            return self._reference(self.bundle.manifest.preprocessing.normalize(frames))

        split = DataHalf.load(dataset, infer)
        self.time.images = len(dataset)
        self.time.reference_s = (self.time.clock() - started) / len(dataset)
        return split

    def _reference(self, images: FloatArray) -> FloatArray:
        return run_onnx(self.bundle.variant_file("fp32"), images, _BATCH)

    def _rank(self, engines: TrialEngines, dataset: Dataset) -> tuple[str, list[str]]:
        """The precision for kept blocks, and the blocks, sorted by noise per time, highest first."""
        few = dataset.select(np.arange(min(_SCORED, len(dataset))))
        images = self.bundle.manifest.preprocessing.normalize(next(few.batches(len(few))).frames)
        noise = self._noise(engines, images)
        names = list(noise)
        self.racers = race(engines, noisiest_blocks(noise), images[:1], self._within(_RACE), self._check_time)
        precision = winner(self.racers)
        mixes = {name: Mix(frozenset([name]), precision) for name in names}
        full_int8 = {"": Mix(frozenset(), precision)}
        timings = engines.time({**full_int8, **mixes}, images[:1], self._within(_SCHEDULE), self._check_time)
        self.time.call_s = max(timing.median_ms for timing in timings.values()) / 1e3
        self._check_time()
        full = timings[""]
        costs = {name: timings[name].median_ms - full.median_ms for name in names}
        self.sensitivities = [Sensitivity(name, noise[name], costs[name]) for name in names]
        return precision, rank(self.sensitivities, max(full.spread_ms, 0.01 * full.median_ms))

    def _noise(self, engines: TrialEngines, images: FloatArray) -> dict[str, float]:
        """For each block, the error of the logits if only this block is quantized."""
        expected = run_onnx(self.bundle.variant_file("fp32"), images).astype(np.float64)
        names = [block.name for block in self.blocks]
        noise = {}
        for name in track(names, "scoring blocks", len(names), "blocks"):
            self._check_time()
            path = engines.file(Mix(frozenset(names) - {name}))
            noise[name] = float(np.square(run_onnx(path, images) - expected).sum() / np.square(expected).sum())
        return noise

    def _evaluate(self, engines: TrialEngines, split: DataHalf, mix: Mix) -> GateRow:
        """The gate's row on the search split. Raises `OutOfTime` if the trial runs into the reserve."""
        with engines.open(mix) as opened:
            started = self.time.clock()
            candidate = {engines.label(mix): engines.infer(opened)}
            stop = partial(self.time.short_of, self._reserve())
            comparison = self._compare(split.replay(_BATCH), candidate, split.dataset, stop)
        seen = len(comparison.labels)
        self.time.trial_s = max(self.time.trial_s, (self.time.clock() - started) / seen)
        if seen < len(split.dataset):
            raise OutOfTime
        return gate_rows(comparison, self.request.budget)[0]

    def _confirm_one(self, engines: TrialEngines, dataset: Dataset) -> StoredVariant | None:
        """Confirm the planned trials until one passes, and store it; a second is planned only if time allows both."""
        again = self.time.confirming() + self.time.storing()
        tries = 1 if self.time.short_of(self.time.confirming() + again) else ATTEMPTS
        for attempt in plan(self.trials, len(self.blocks), self.request.budget, len(dataset), tries):
            if self.confirmations and self.time.short_of(again):
                self.left_out.append(f"the confirmation with {len(attempt.trial.mix.kept)} blocks kept: out of time")
                break
            confirmed = self._confirm(engines, dataset, attempt)
            self.confirmations.append(confirmed)
            if confirmed.row.verdict == PASS:
                return self._store(engines, confirmed)
        return None

    def _confirm(self, engines: TrialEngines, dataset: Dataset, attempt: TrialToConfirm) -> Confirmation:
        """The gate's row on held-out images, on as many as the time allows; fewer images decide less often."""
        mix, budget = attempt.trial.mix, replace(self.request.budget, confidence=attempt.confidence)
        stop = partial(self.time.short_of, self.time.storing())
        self.say(f"confirm {engines.label(mix)} on {len(dataset)} other images, about {self.time.confirming():.0f} s")
        with engines.open(mix) as opened:
            candidate = {engines.label(mix): engines.infer(opened)}
            comparison = self._compare(self._reference, candidate, dataset, stop)
        missing = len(dataset) - len(comparison.labels)
        if missing:
            self.left_out.append(f"{missing} of {len(dataset)} held-out images: out of time")
        row = gate_rows(comparison, budget)[0]
        assert row.judged is not None
        pairs = row.judged.pairs
        return Confirmation(attempt, row, drop_of_passed(pairs, budget) if row.verdict == PASS else pairs.drop_pp)

    def _compare(
        self, reference: Infer, candidate: Mapping[str, Engine], dataset: Dataset, stop: Callable[[], bool]
    ) -> PairedOutcomes:
        recipe, hashes = self.bundle.manifest.preprocessing, calibration_hashes(self.bundle)
        return compare_accuracy(reference, candidate, dataset, recipe, hashes, batch_size=_BATCH, stop=stop)

    def _quantize(self, keep_float: frozenset[str]) -> bytes:
        fp32 = self.bundle.variant_file("fp32")
        return quantize_model(fp32, self.calibration, self.dialect, self.request.options, keep_float)

    @cached_property
    def calibration(self) -> CalibrationRecord:
        """The bundle's calibration record; it is read and checked once."""
        return load_record(self.bundle)

    def _reserve(self) -> float:
        """Seconds for what follows the search, with one more trial and FP32 to be timed."""
        return self.time.reserve(len(self.trials) + 2, _FINAL)

    def _check_time(self, needed_s: float = 0.0) -> None:
        """Raise `OutOfTime` unless `needed_s` can be spent without using the reserve."""
        self.time.check(needed_s + self._reserve())

    def _within(self, schedule: Schedule) -> Schedule:
        return self.time.within(schedule, self._reserve())

    def _front(self, engines: TrialEngines) -> list[FrontRow]:
        """Every trial and FP32 with its time, if there is time to measure."""
        if not self.trials:
            return []
        count = len(self.trials) + 1
        name, needed = f"the final timing of {count} variants", self.time.timing(count, _FINAL)
        if self.time.short_of(needed):
            self.left_out.append(f"{name}: it takes about {needed:.0f} s, {max(0.0, self.time.left()):.0f} s were left")
            return []
        try:
            return measure_front(engines, self.rows, self.time.within(_FINAL), self.time.check)
        except (KeyboardInterrupt, OutOfTime) as stop:
            self.left_out.append(f"{name}: {_why(stop)}")
            return []

    def _store(self, engines: TrialEngines, confirmed: Confirmation) -> StoredVariant:
        mix = confirmed.attempt.trial.mix
        name, precision = self.variant, engines.precision(mix)
        evidence = {
            "kept": sorted(mix.kept),
            "kept_precision": mix.precision,
            "method": self.request.options.method,
            "calibration_sha256": record_of(self.bundle),
            "budget": self.request.budget.to_json(),
            "search": _facts(self.rows[mix]),
            "held_out": {**_facts(confirmed.row), **confirmed.claim()},
            "islands": [item.to_json() for item in self.racers],
        }
        # ONNX Runtime's CPU has no BF16 and skips FP16 roundings, so 16-bit files are judged by their float32 twins
        half = mix.precision != "fp32" and precision == "int8"
        blob, run = engines.file(mix).read_bytes(), rounded_outputs if half else golden_outputs
        store_variant(self.bundle, name, blob, precision, evidence, dialect=self.dialect.name, run=run)
        request = self.request  # a mixed variant is not named after one precision, so any share is accepted
        engine = compile_variant(self.bundle, name, request.backend, request.target, min_share=0.0)
        return {"variant": name, "engine": engine}

    def _record(self, front: list[FrontRow], stored: StoredVariant | None) -> SearchRecord:
        confirmed = self.confirmations[-1] if self.confirmations else None
        mix = None if confirmed is None else confirmed.attempt.trial.mix
        return {
            "bundle": str(self.bundle.path),
            "data": self.request.data,
            "backend": self.request.backend,
            "budget": self.request.budget.to_json(),
            "verdict": None if confirmed is None else confirmed.row.verdict,
            "stopped": self.stopped or None,
            "left_out": self.left_out,
            "evaluations": len(self.trials),
            "blocks": [
                BlockRow(block=item.block, noise=item.noise, cost_ms=item.cost_ms) for item in self.sensitivities
            ],
            "islands": [item.to_json() for item in self.racers],
            "kept": None if mix is None else sorted(mix.kept),
            "kept_precision": None if mix is None else mix.precision,
            "search": None if mix is None else self.rows[mix].to_json(),
            "held_out": None if confirmed is None else confirmed.to_json(),
            "confirmations": [
                {**_facts(item.row), **item.claim(), "kept": sorted(item.attempt.trial.mix.kept)}
                for item in self.confirmations
            ],
            "front": front,
            "stored": stored,
        }


def _why(stop: BaseException) -> str:
    return "interrupted" if isinstance(stop, KeyboardInterrupt) else "out of time"


def _facts(row: GateRow) -> FactsRow:
    accuracy = row.accuracy
    return {
        "n": accuracy.n,
        "fp32_top1": accuracy.fp32_top1,
        "top1": accuracy.top1,
        "drop_pp": accuracy.drop_pp,
        "drop_ci_pp": list(accuracy.drop_ci_pp),
        "verdict": row.verdict,
    }
