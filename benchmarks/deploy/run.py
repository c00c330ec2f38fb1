"""The whole pipeline: export, calibrate, quantize, compile, verify, evaluate, time, report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.accuracy.comparison import compare_accuracy
from resnetrt.benchmarks.accuracy.gate import Budget
from resnetrt.benchmarks.accuracy.gate_rows import gate_rows
from resnetrt.benchmarks.accuracy.request import open_engines
from resnetrt.benchmarks.deploy.auto import CHOSEN, choice_claim, choose, keep_only, share_among, try_all
from resnetrt.benchmarks.deploy.engines import Engines, Wanted, compile_all
from resnetrt.benchmarks.evaluate.report import counted
from resnetrt.benchmarks.measure.latency import BASELINE, Contender, measure_latency, watched
from resnetrt.benchmarks.measure.noise import watch
from resnetrt.benchmarks.measure.timing import ENOUGH_ROUNDS, Schedule
from resnetrt.benchmarks.reports.report import Attempt, Report, write_report
from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.benchmarks.verify.reference import eager_infer, on_a_copy
from resnetrt.bundle import Bundle, check_destination
from resnetrt.calibration.images.data import open_dataset
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.learn_rounding import Learning
from resnetrt.calibration.quantize.quantize import QuantizeOptions, add_uint8_variant, quantize_variant
from resnetrt.calibration_record import CalibrationRecord, calibration_hashes
from resnetrt.conditions import conditions, plural
from resnetrt.errors import BackendMissing
from resnetrt.export.fp32.export import export_bundle
from resnetrt.golden import Golden
from resnetrt.models.resolve import split_arguments
from resnetrt.preprocess import Preprocessing
from resnetrt.progress import Say
from resnetrt.runtime.batches import OnSession
from resnetrt.settings import read_settings


@dataclass(frozen=True)
class DeployRequest:
    """What to deploy and how to judge it.

    `model_options` go to `prepare_export`; its golden images are of `eval_data` unless they name others.
    The engines that are `wanted` are made, and INT8 as `quantizing` says, with the input that is wanted. With
    `rounding_s`, its rounding is learned from the calibration images, for so many seconds a variant. With `budget`,
    everything that this machine can run is tried instead, and only the fastest engine that passes is kept.
    """

    model: str
    out: Path
    calib_data: str
    eval_data: str
    samples: int = 512
    eval_samples: int | None = None
    quantizing: QuantizeOptions = field(default_factory=QuantizeOptions)
    rounding_s: float | None = None
    batch: int = 1
    budget_s: float = 12.0
    overwrite: bool = False
    picture: bool = True
    budget: Budget | None = None
    wanted: Wanted = field(default_factory=Wanted)
    model_options: dict[str, Any] = field(default_factory=dict)


def deploy(request: DeployRequest, say: Say) -> tuple[Bundle, Report, list[Path]]:
    """Run the pipeline; `say` gets one line per stage. Returns the bundle, the report and the files written beside it.

    The bundle is at `out/<name>.bundle`, the report at `out/report.*`. An engine that fails a check is left out and
    listed under `refused` of the report. Raises what its stages raise; the bundle is valid after each stage.
    """
    request.wanted.check()
    path = request.out / f"{split_arguments(request.model)[0].replace(':', '_')}.bundle"
    check_destination(path, request.overwrite)
    golden = request.model_options.get("golden_data") or request.eval_data
    say(f"export    {request.model}, checked on images of {golden} ...")
    export = prepare_export(request.model, **(request.model_options | {"golden_data": golden}))
    labels = export.labels
    for data, labelled in ((request.eval_data, True), (request.calib_data, False)):  # also before the long run
        open_dataset(data, export.preprocessing, labels, labelled=labelled, classes=len(labels) or None)
    bundle, fold = export_bundle(export, path, request.overwrite)
    parity = bundle.manifest.variants["fp32"].evidence["parity"]
    worst = fold.to_json()["max_relative_error"]
    say(f"fold      {len(fold.certificates)} BatchNorms into convolutions, error {worst:.1e} relative")
    if bundle.manifest.untrained:
        say("warning   its weights are random; name trained ones with --weights")
    say(f"export    fp32.onnx, {parity['max_abs']:.1e} max abs from eager over {bundle.manifest.golden_words}")
    say(f"calibrate on images of {request.calib_data}, {request.samples} at most ...")
    record = calibrate_bundle(bundle, request.calib_data, request.samples)
    say(f"calibrate {len(record.tensors)} tensors over {len(record.image_hashes)} images of {record.dataset}")
    if request.wanted.input == "uint8":
        add_uint8_variant(bundle)
    options = _quantize_options(request, record, export.preprocessing)
    for dialect in ("cpu", "onnxruntime", "tensorrt"):
        say(f"quantize  for {dialect} ...")
        variant, golden_parity = quantize_variant(bundle, dialect, options)
        if options.learning is not None and (last := options.learning.last) is not None:
            say(f"quantize  {len(last.learned)} layers rounded by learning, {len(last.skipped)} to nearest")
        say(f"quantize  {variant}.onnx, SQNR {golden_parity.sqnr_db:.1f} dB over {bundle.manifest.golden_words}")
    attempts = None if request.budget is None else list(_try_all(bundle, request.wanted, say))
    if attempts is None:
        made = compile_all(bundle, request.wanted, say)
    else:
        made = Engines([item.engine for item in attempts if item.engine is not None])
    report = _judge(bundle, request, eager_infer(export.module), made, say)
    if attempts is not None:
        report = _choose(bundle, report, attempts, request.budget, say)
    # without an engine that runs here there is nothing to draw
    return bundle, report, _write(report, request.out, request.picture and bool(made.engines), say)


def _write(report: Report, out: Path, picture: bool, say: Say) -> list[Path]:
    try:
        return write_report(report, out, picture)
    except BackendMissing as error:
        say(f"report    without a picture: {error}")
        return write_report(report, out, picture=False)


def _quantize_options(
    request: DeployRequest, record: CalibrationRecord, preprocessing: Preprocessing
) -> QuantizeOptions:
    learning = None
    if request.rounding_s is not None:
        learning = Learning.of(request.calib_data, preprocessing, record.image_hashes, request.rounding_s)
    return replace(request.quantizing, input=request.wanted.input, learning=learning)


def _try_all(bundle: Bundle, wanted: Wanted, say: Say) -> Iterator[Attempt]:
    for item in try_all(bundle, wanted.min_share, wanted.input, say):
        ended = f"{item.outcome}: {item.why}" if item.outcome else "verified"
        say(f"try       {item.backend} {item.precision}: {ended}")
        yield item


def _choose(bundle: Bundle, report: Report, attempts: Sequence[Attempt], budget: Budget | None, say: Say) -> Report:
    """The report with what was tried; the bundle keeps the chosen engine, or all engines if none was chosen."""
    rows = [row for row in report.results if row["batch"] == report.batch]
    tried = choose(attempts, report.engines, rows)
    best = next((item.engine for item in tried if item.outcome == CHOSEN), None)
    if best is not None:
        keep_only(bundle, best)
    say(f"choose    {best or 'none: no engine passes the accuracy budget; all that run are kept'}")
    notes = [*report.notes, *([choice_claim(len(report.engines), budget)] if best is not None and budget else [])]
    return replace(report, tried=tuple(tried), notes=notes)


def _judge(bundle: Bundle, request: DeployRequest, eager: Any, made: Engines, say: Say) -> Report:
    manifest, engines = bundle.manifest, made.engines
    dataset = open_dataset(request.eval_data, manifest.preprocessing, manifest.labels, classes=manifest.classes)
    if request.eval_samples is not None and request.eval_samples < len(dataset):
        dataset = dataset.subset(request.eval_samples)
    with ExitStack() as stack:
        opened, _ = stack.enter_context(open_engines(bundle, engines, judged=False))
        started = time.monotonic()
        say(f"evaluate  eager and {len(engines)} engines on {len(dataset)} images of {dataset.name} ...")
        comparison = compare_accuracy(
            on_a_copy(eager), opened, dataset, manifest.preprocessing, calibration_hashes(bundle)
        )
        accuracy = gate_rows(comparison, request.budget, spendings=share_among(engines))
        say(f"evaluate  {len(dataset)} images of {dataset.name} in {time.monotonic() - started:.1f} s")
        threads = read_settings().threads
        contenders = [Contender(BASELINE, "eager", "fp32", eager, threads)]
        frames = Golden.of(bundle).frames
        for name, engine in opened.items():
            record = bundle.read_engine(name)
            own = frames if isinstance(engine, OnSession) and engine.takes_frames else None
            contenders.append(Contender(name, record.backend, record.precision, engine, threads, images=own))
        images = manifest.preprocessing.normalize(frames)
        # a large network may exceed the budget: factors need enough rounds
        schedule = Schedule(rounds=11, least_rounds=ENOUGH_ROUNDS, budget_s=request.budget_s)
        say(f"time      {len(contenders)} engines, {request.budget_s:.0f} s at most ...")
        with watch() as noise:
            rows = measure_latency(manifest.name, None, contenders, images, (request.batch,), schedule)
        latency = watched(rows, noise.disturbed)
        how = f"batch {request.batch}, {plural(threads, 'thread')}"
        say(f"time      {len(contenders)} engines in rotated blocks, {how}")
        notes = [f"DISTURBED while the engines were timed: {reason}" for reason in noise.reasons]
        notes += [f"images evaluated: {counted(row)}" for row in accuracy[:1] if row.copies]
        for note in notes:
            say(f"time      {note}")
    names = [*engines, *made.not_run]
    sizes = {name: manifest.files[manifest.engines[name].file].size_bytes for name in names}
    shares = {name: bundle.read_engine(name).own_share for name in names}
    title = f"{manifest.name}: accuracy, latency and size, engine by engine"
    return Report(
        title,
        accuracy,
        latency,
        sizes,
        conditions(),
        request.batch,
        notes,
        shares=shares,
        refused=tuple(made.refused),
        not_run=made.not_run,
    )
