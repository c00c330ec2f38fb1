"""Search a bundle's mixed-precision variant: split the data, measure, search, confirm, store."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy import compare_accuracy
from resnetrt.benchmarks.blocks import find_blocks
from resnetrt.benchmarks.evaluate import calibration_hashes
from resnetrt.benchmarks.gate import PASS, Budget, Pairs, gate_rows, judge_pairs
from resnetrt.benchmarks.race import Racer, noisiest_blocks, race, winner
from resnetrt.benchmarks.replay import Split
from resnetrt.benchmarks.search import Mix, Sensitivity, Trial, best, pareto, rank, search
from resnetrt.benchmarks.timing import Schedule, Timing
from resnetrt.benchmarks.trial_engines import Build, TrialEngines
from resnetrt.bundle import Bundle
from resnetrt.calibration.data import Dataset, open_dataset
from resnetrt.calibration.dialects import dialect as find_dialect
from resnetrt.calibration.quantize import QuantizeOptions, check_quantized, load_record, quantize_model
from resnetrt.errors import Inconclusive
from resnetrt.export.cast import measure_rounded
from resnetrt.export.compilers import compile_variant, find_compiler
from resnetrt.export.onnx_parity import measure_parity, run_onnx
from resnetrt.manifest import VariantRecord
from resnetrt.parity import require
from resnetrt.preprocess import FloatArray
from resnetrt.progress import track

_BATCH = 50
_SCORED = 32  # images of the cheap score
_SCHEDULE = Schedule(rounds=5, min_block_s=0.03, settle_s=0.01, warm_up_s=0.05)
_RACE = Schedule(rounds=11, min_block_s=0.05, settle_s=0.02, warm_up_s=0.1)  # three engines that decide all the rest
_FINAL = Schedule(rounds=9, min_block_s=0.05, settle_s=0.02, warm_up_s=0.1)


@dataclass(frozen=True)
class SearchRequest:
    """`samples` images at most, half to search on and half to confirm; `minutes` at most for scores and trials."""

    data: str
    budget: Budget
    backend: str = "onnxruntime"
    target: str = "cpu"
    samples: int = 4000
    minutes: float = 30.0
    options: QuantizeOptions = field(default_factory=QuantizeOptions)
    build: Build | None = None


class OutOfTime(Exception):
    """The time budget is spent."""


class SearchRun:
    """One search over a bundle; `run` returns the object of `search --json`. An interrupt keeps the best so far."""

    def __init__(self, bundle: Bundle, request: SearchRequest) -> None:
        self.bundle, self.request = bundle, request
        self.blocks = find_blocks(bundle.variant_file("fp32"))
        self.dialect = find_dialect(find_compiler(request.backend).DIALECT)
        self.trials: list[Trial] = []
        self.sensitivities: list[Sensitivity] = []
        self.racers: list[Racer] = []
        self.stopped = ""
        self._deadline = time.monotonic() + 60 * request.minutes

    def run(self) -> dict[str, Any]:
        """Search, confirm on the other half of the data, measure the front and store the chosen variant.

        Raises `Inconclusive` if the data is too small for even an unchanged network to pass.
        """
        searching, held_out = self._split()
        with TemporaryDirectory(prefix="resnetrt-search-") as folder:
            engines = self.engines(Path(folder))
            try:
                self._search(engines, searching)
            except (KeyboardInterrupt, OutOfTime) as stop:
                self.stopped = "interrupted" if isinstance(stop, KeyboardInterrupt) else "out of time"
            chosen = best(self.trials)
            confirmed = None if chosen is None else self._evaluate(engines, self._cached(held_out), chosen.mix)
            front = self._front(engines)
            stored = None
            if chosen is not None and confirmed is not None and confirmed["verdict"] == PASS:
                stored = self._store(engines, chosen, confirmed)
        return self._record(chosen, confirmed, front, stored)

    def engines(self, folder: Path) -> TrialEngines:
        """What makes this search's trials, with its files in `folder`."""
        request = self.request
        build = request.build or self._quantize
        return TrialEngines(self.bundle, request.backend, request.target, self.blocks, build, folder)

    def _search(self, engines: TrialEngines, dataset: Dataset) -> None:
        """Race the precisions, rank the blocks, and find how many of them to keep.

        If a 16-bit precision helps only with every block kept, which is FP32, the search is repeated in FP32.
        """
        precision, ranking = self._rank(engines, dataset)
        split = self._cached(dataset)

        def evaluate(mix: Mix) -> dict[str, Any]:
            self._check_time()
            return self._evaluate(engines, split, mix)

        search(ranking, evaluate, self.trials, precision)
        chosen = best(self.trials)
        if precision != "fp32" and chosen is not None and engines.is_all(chosen.mix):
            search(ranking, evaluate, self.trials, fails=0, passes=len(ranking))

    def _split(self) -> tuple[Dataset, Dataset]:
        manifest, request = self.bundle.manifest, self.request
        dataset = open_dataset(request.data, manifest.preprocessing, manifest.labels, classes=manifest.classes)
        dataset = dataset.subset(min(request.samples, len(dataset)))
        half = len(dataset) // 2
        unchanged = judge_pairs(Pairs(half, 0, 0, half), request.budget)
        if unchanged.verdict != PASS:
            raise Inconclusive(
                f"search: expected enough images to tell {request.budget}, found {half} in each half of "
                f"{request.data}; even an unchanged network needs {unchanged.more_images} more in each; "
                "add images or raise the budget"
            )
        return dataset.select(np.arange(half)), dataset.select(np.arange(half, 2 * half))

    def _cached(self, dataset: Dataset) -> Split:
        fp32, normalize = self.bundle.variant_file("fp32"), self.bundle.manifest.preprocessing.normalize
        return Split.load(dataset, lambda frames: run_onnx(fp32, normalize(frames), _BATCH))

    def _rank(self, engines: TrialEngines, dataset: Dataset) -> tuple[str, list[str]]:
        """The precision to keep blocks in, and the blocks, most noise for its time first."""
        few = dataset.select(np.arange(min(_SCORED, len(dataset))))
        images = self.bundle.manifest.preprocessing.normalize(next(few.batches(len(few))).frames)
        noise = self._noise(engines, images)
        names = list(noise)
        self.racers = race(engines, noisiest_blocks(noise), images[:1], _RACE, self._check_time)
        precision = winner(self.racers)
        mixes = {name: Mix(frozenset([name]), precision) for name in names}
        timings = engines.time({"": Mix(frozenset(), precision), **mixes}, images[:1], _SCHEDULE, self._check_time)
        full = timings[""]
        costs = {name: timings[name].median_ms - full.median_ms for name in names}
        self.sensitivities = [Sensitivity(name, noise[name], costs[name]) for name in names]
        return precision, rank(self.sensitivities, max(full.spread_ms, 0.01 * full.median_ms))

    def _noise(self, engines: TrialEngines, images: FloatArray) -> dict[str, float]:
        """By block, what quantizing it alone does to the logits."""
        expected = run_onnx(self.bundle.variant_file("fp32"), images).astype(np.float64)
        names = [block.name for block in self.blocks]
        noise = {}
        for name in track(names, "scoring blocks", len(names), "blocks"):
            self._check_time()
            path = engines.file(Mix(frozenset(names) - {name}))
            noise[name] = float(np.square(run_onnx(path, images) - expected).sum() / np.square(expected).sum())
        return noise

    def _evaluate(self, engines: TrialEngines, split: Split, mix: Mix) -> dict[str, Any]:
        with engines.open(mix) as opened:
            comparison = compare_accuracy(
                split.replay(_BATCH),
                {engines.label(mix): engines.infer(opened)},
                split.dataset,
                self.bundle.manifest.preprocessing,
                calibration_hashes(self.bundle),
                batch_size=_BATCH,
            )
        return gate_rows(comparison, self.request.budget)[0]

    def _quantize(self, keep_float: frozenset[str]) -> bytes:
        fp32, record = self.bundle.variant_file("fp32"), load_record(self.bundle)
        return quantize_model(fp32, record, self.dialect, self.request.options, keep_float)

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise OutOfTime

    def _front(self, engines: TrialEngines) -> list[dict[str, Any]]:
        """Every trial and FP32 with its time, measured side by side, and whether nothing else is better."""
        if not self.trials:
            return []
        mixes = {engines.label(trial.mix): trial.mix for trial in self.trials}
        everything = Mix(frozenset(block.name for block in self.blocks))
        image = np.zeros((1, *self.bundle.manifest.input.shape), np.float32)
        timings = engines.time({**mixes, "fp32": everything}, image, _FINAL, lambda: None)
        rows = [_front_row(trial, timings[engines.label(trial.mix)]) for trial in self.trials]
        if "fp32" not in mixes:
            first = self.trials[0].row
            same = {"top1": first["fp32_top1"], "drop_pp": 0.0, "drop_ci_pp": None, "verdict": PASS, "n": first["n"]}
            rows.append(_front_row(Trial(everything, {"engine": "fp32", **same}), timings["fp32"]))
        fp32 = timings["fp32"].median_ms
        for row, optimal in zip(rows, pareto(rows), strict=True):
            row |= {"pareto": optimal, "times_faster": fp32 / row["median_ms"], "batch": 1}
        return rows

    def _store(self, engines: TrialEngines, chosen: Trial, confirmed: dict[str, Any]) -> dict[str, str]:
        name, precision = f"mixed.{self.dialect.name}", engines.precision(chosen.mix)
        evidence = {
            "kept": sorted(chosen.mix.kept),
            "kept_precision": chosen.mix.precision,
            "method": self.request.options.method,
            "budget": self.request.budget.to_json(),
            "search": _facts(chosen.row),
            "held_out": _facts(confirmed),
            "islands": [item.to_json() for item in self.racers],
        }
        blob = engines.file(chosen.mix).read_bytes()
        with self.bundle.edit() as editor:
            path = editor.new_path(f"{name}.onnx")
            path.write_bytes(blob)
            check_quantized(path)
            # ONNX Runtime's CPU runs no BF16 and leaves FP16 roundings out, so 16 bits are judged by their float twin
            half = chosen.mix.precision != "fp32" and precision == "int8"
            parity = measure_rounded(self.bundle, path) if half else measure_parity(self.bundle, path)
            require(parity, "onnxruntime", precision, f"variant {name}")
            record = VariantRecord(
                f"{name}.onnx", precision, dialect=self.dialect.name, evidence=evidence | {"parity": parity.to_json()}
            )
            editor.add_variant(name, record)
        engine = compile_variant(self.bundle, name, self.request.backend, self.request.target)
        return {"variant": name, "engine": engine}

    def _record(
        self,
        chosen: Trial | None,
        confirmed: dict[str, Any] | None,
        front: list[dict[str, Any]],
        stored: dict[str, str] | None,
    ) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle.path),
            "data": self.request.data,
            "backend": self.request.backend,
            "budget": self.request.budget.to_json(),
            "verdict": None if confirmed is None else confirmed["verdict"],
            "stopped": self.stopped or None,
            "evaluations": len(self.trials),
            "blocks": [vars(item) for item in self.sensitivities],
            "islands": [item.to_json() for item in self.racers],
            "kept": None if chosen is None else sorted(chosen.mix.kept),
            "kept_precision": None if chosen is None else chosen.mix.precision,
            "search": None if chosen is None else dict(chosen.row),
            "held_out": confirmed,
            "front": front,
            "stored": stored,
        }


def _front_row(trial: Trial, timing: Timing) -> dict[str, Any]:
    row = {name: trial.row[name] for name in ("engine", "n", "top1", "drop_pp", "drop_ci_pp", "verdict")}
    precision = "fp32" if row["engine"] == "fp32" else "int8"
    kept = {"kept": sorted(trial.mix.kept), "kept_precision": trial.mix.precision, "precision": precision}
    return row | kept | {"median_ms": timing.median_ms, "ci_ms": list(timing.ci_ms)}


def _facts(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("n", "fp32_top1", "top1", "drop_pp", "drop_ci_pp", "verdict")}
