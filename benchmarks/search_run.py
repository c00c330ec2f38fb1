"""Search a bundle's mixed-precision variant: split the data, measure, search, confirm, store."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy import compare_accuracy
from resnetrt.benchmarks.blocks import find_blocks
from resnetrt.benchmarks.evaluate import calibration_hashes
from resnetrt.benchmarks.gate import PASS, Budget, Pairs, gate_rows, judge_pairs
from resnetrt.benchmarks.latency import Infer
from resnetrt.benchmarks.replay import Split
from resnetrt.benchmarks.search import Sensitivity, Trial, best, pareto, rank, search
from resnetrt.benchmarks.timing import Schedule, Timing, measure
from resnetrt.bundle import Bundle
from resnetrt.calibration.data import Dataset, open_dataset
from resnetrt.calibration.dialects import dialect as find_dialect
from resnetrt.calibration.quantize import QuantizeOptions, check_quantized, load_record, quantize_model
from resnetrt.errors import Inconclusive
from resnetrt.export.compilers import compile_variant, find_compiler
from resnetrt.export.onnx_parity import measure_parity, run_onnx
from resnetrt.manifest import VariantRecord
from resnetrt.parity import require
from resnetrt.preprocess import FloatArray
from resnetrt.progress import track
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.load import check_threads

Build = Callable[[frozenset[str]], bytes]
_BATCH = 50
_SCORED = 32  # images of the cheap score
_SCHEDULE = Schedule(rounds=5, min_block_s=0.03, settle_s=0.01, warm_up_s=0.05)
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
        self.stopped = ""
        self._deadline = time.monotonic() + 60 * request.minutes
        self._build = request.build or self._quantize

    def run(self) -> dict[str, Any]:
        """Search, confirm on the other half of the data, measure the front and store the chosen variant.

        Raises `Inconclusive` if the data is too small for even an unchanged network to pass.
        """
        searching, held_out = self._split()
        with TemporaryDirectory(prefix="resnetrt-search-") as folder:
            self._folder = Path(folder)
            try:
                ranking = self._rank(searching)
                search(ranking, partial(self._evaluate, self._cached(searching)), self.trials)
            except (KeyboardInterrupt, OutOfTime) as stop:
                self.stopped = "interrupted" if isinstance(stop, KeyboardInterrupt) else "out of time"
            chosen = best(self.trials)
            confirmed = None if chosen is None else self._evaluate(self._cached(held_out), chosen.kept, limited=False)
            front = self._front()
            stored = None
            if chosen is not None and confirmed is not None and confirmed["verdict"] == PASS:
                stored = self._store(chosen, confirmed)
        return self._record(chosen, confirmed, front, stored)

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

    def _rank(self, dataset: Dataset) -> list[str]:
        """Score every block alone; most noise for its time first."""
        few = dataset.select(np.arange(min(_SCORED, len(dataset))))
        images = self.bundle.manifest.preprocessing.normalize(next(few.batches(len(few))).frames)
        expected = run_onnx(self.bundle.variant_file("fp32"), images).astype(np.float64)
        names = [block.name for block in self.blocks]
        noise = {}
        for name in track(names, "scoring blocks", len(names), "blocks"):
            self._check_time()
            path = self._file(frozenset(names) - {name})
            noise[name] = float(np.square(run_onnx(path, images) - expected).sum() / np.square(expected).sum())
        full, timings = self._costs(names, images[:1])
        costs = {name: timings[name].median_ms - full.median_ms for name in names}
        self.sensitivities = [Sensitivity(name, noise[name], costs[name]) for name in names]
        return rank(self.sensitivities, max(full.spread_ms, 0.01 * full.median_ms))

    def _costs(self, names: list[str], image: FloatArray) -> tuple[Timing, dict[str, Timing]]:
        sets: dict[str, frozenset[str]] = {"": frozenset(), **{name: frozenset([name]) for name in names}}
        found = self._time(sets, image, _SCHEDULE)
        return found.pop(""), found

    def _time(self, sets: dict[str, frozenset[str]], image: FloatArray, schedule: Schedule) -> dict[str, Timing]:
        with ExitStack() as stack:
            calls = {}
            for name, kept in sets.items():
                self._check_time(schedule is _SCHEDULE)
                calls[name] = partial(stack.enter_context(self._engine(kept)), image)
            return measure(calls, schedule, lambda rounds: track(rounds, "timing", len(rounds), "rounds"))

    def _evaluate(self, split: Split, kept: frozenset[str], limited: bool = True) -> dict[str, Any]:
        self._check_time(limited)
        with self._engine(kept) as infer:
            comparison = compare_accuracy(
                split.replay(_BATCH),
                {_label(kept): infer},
                split.dataset,
                self.bundle.manifest.preprocessing,
                calibration_hashes(self.bundle),
                batch_size=_BATCH,
            )
        return gate_rows(comparison, self.request.budget)[0]

    @contextmanager
    def _engine(self, kept: frozenset[str]) -> Iterator[Infer]:
        """The variant that keeps `kept`, compiled for the backend; with every block kept it is the FP32 file."""
        path, precision = self._file(kept), "fp32" if self._is_all(kept) else "int8"
        request = self.request
        compiled = find_compiler(request.backend).compile_engine(path, precision, request.target, {})
        blob = self._folder / f"engine-{abs(hash(kept))}.{compiled.extension}"
        blob.write_bytes(compiled.blob)
        sidecar = {
            "id": _label(kept),
            "backend": request.backend,
            "precision": precision,
            "target": request.target,
            "tools": compiled.tools,
            "options": compiled.options,
            "inputs": [spec.to_json() for spec in compiled.inputs],
            "outputs": [spec.to_json() for spec in compiled.outputs],
        }
        output = self.bundle.manifest.output
        with find_backend(request.backend).load(blob, sidecar, check_threads(None)) as session:
            yield lambda images: session.infer(images)[output]
        blob.unlink()

    def _is_all(self, kept: frozenset[str]) -> bool:
        return len(kept) == len(self.blocks)

    def _file(self, kept: frozenset[str]) -> Path:
        if self._is_all(kept):
            return self.bundle.variant_file("fp32")
        path = self._folder / "variant.onnx"
        path.write_bytes(self._build(self._nodes(kept)))
        return path

    def _nodes(self, kept: frozenset[str]) -> frozenset[str]:
        return frozenset[str]().union(*(block.nodes for block in self.blocks if block.name in kept))

    def _quantize(self, keep_float: frozenset[str]) -> bytes:
        fp32, record = self.bundle.variant_file("fp32"), load_record(self.bundle)
        return quantize_model(fp32, record, self.dialect, self.request.options, keep_float)

    def _check_time(self, limited: bool = True) -> None:
        if limited and time.monotonic() > self._deadline:
            raise OutOfTime

    def _front(self) -> list[dict[str, Any]]:
        """Every trial and FP32 with its time, measured side by side, and whether nothing else is better."""
        if not self.trials:
            return []
        sets = {_label(trial.kept): trial.kept for trial in self.trials}
        everything = frozenset(block.name for block in self.blocks)
        shape = (1, *self.bundle.manifest.input.shape)
        timings = self._time({**sets, "fp32": everything}, np.zeros(shape, np.float32), _FINAL)
        rows = [_front_row(trial.row, timings[_label(trial.kept)], sorted(trial.kept)) for trial in self.trials]
        first = self.trials[0].row
        same = {"top1": first["fp32_top1"], "drop_pp": 0.0, "drop_ci_pp": None, "verdict": PASS, "n": first["n"]}
        if not any(self._is_all(trial.kept) for trial in self.trials):
            rows.append(_front_row({"engine": "fp32", **same}, timings["fp32"], sorted(everything)))
        fp32 = timings["fp32"].median_ms
        for row, optimal in zip(rows, pareto(rows), strict=True):
            row |= {"pareto": optimal, "times_faster": fp32 / row["median_ms"], "batch": 1}
        return rows

    def _store(self, chosen: Trial, confirmed: dict[str, Any]) -> dict[str, str]:
        name = f"mixed.{self.dialect.name}"
        evidence = {
            "kept_float": sorted(chosen.kept),
            "method": self.request.options.method,
            "budget": self.request.budget.to_json(),
            "search": _facts(chosen.row),
            "held_out": _facts(confirmed),
        }
        precision = "fp32" if self._is_all(chosen.kept) else "int8"
        blob = self._file(chosen.kept).read_bytes()
        with self.bundle.edit() as editor:
            path = editor.new_path(f"{name}.onnx")
            path.write_bytes(blob)
            check_quantized(path)
            parity = measure_parity(self.bundle, path)
            require(parity, "onnxruntime", precision, f"variant {name}")
            record = VariantRecord(
                f"{name}.onnx", precision, dialect=self.dialect.name, evidence=evidence | {"parity": parity.to_json()}
            )
            editor.manifest.variants[name] = record
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
            "kept": None if chosen is None else sorted(chosen.kept),
            "search": None if chosen is None else dict(chosen.row),
            "held_out": confirmed,
            "front": front,
            "stored": stored,
        }


def _front_row(row: Any, timing: Timing, kept: Sequence[str]) -> dict[str, Any]:
    names = ("engine", "n", "top1", "drop_pp", "drop_ci_pp", "verdict")
    precision = "fp32" if row["engine"] == "fp32" else "int8"
    times = {"median_ms": timing.median_ms, "ci_ms": list(timing.ci_ms)}
    return {name: row[name] for name in names} | times | {"kept": list(kept), "precision": precision}


def _facts(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("n", "fp32_top1", "top1", "drop_pp", "drop_ci_pp", "verdict")}


def _label(kept: frozenset[str]) -> str:
    return "int8" if not kept else f"int8, {len(kept)} float"
