"""What `resnetrt bench` does: choose networks, measure, compare."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from resnetrt.atomic import write_file
from resnetrt.benchmarks.compare.more_runs import (
    RUNS,
    Runs,
    check_itself,
    compare_in_turn,
    compare_with_stored,
    other_side,
    python_of,
    this_side,
)
from resnetrt.benchmarks.compare.records import read_record
from resnetrt.benchmarks.compare.regression import EXIT_CODES, Regression, parse_percent, runs_of
from resnetrt.benchmarks.compare.same_conditions import check_conditions, check_request, read_partial
from resnetrt.benchmarks.depth.bench_record import BenchRecord, LabRecord
from resnetrt.benchmarks.depth.lab import run_lab
from resnetrt.benchmarks.depth.plan import LabOptions, Subject, bundle_subject, lab_conditions, request_of
from resnetrt.benchmarks.load.loadgen import LoadgenRow, check_scenarios, run_loadgen
from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines.here import backends_here
from resnetrt.manifest import canonical_json
from resnetrt.progress import Say
from resnetrt.runtime.backends.onnxruntime import cuda_is_here
from resnetrt.runtime.load import check_threads

LAB_PRECISIONS = ("fp32", "int8")  # the precisions for --depths
INTERRUPTED = 130  # the exit code of a run that Ctrl-C ended


@dataclass(frozen=True)
class BenchRequest:
    """The options of `resnetrt bench`, as given."""

    bundles: Sequence[Path]
    depths: Sequence[int] | None
    precisions: Sequence[str] | None
    backends: Sequence[str] | None
    batches: Sequence[int]
    contexts: Sequence[int]
    threads: int | None
    cpus: Sequence[str] | None
    rounds: int
    budget: float | None
    peers: bool
    profile: str | None
    only_latency: bool
    work: Path | None
    out: Path | None
    resume: Path | None
    runs: int | None
    compare: Path | None
    against: Path | None
    self_check: bool
    max_slowdown: str
    accept: Sequence[str]
    loadgen: Sequence[str] | None
    loadgen_seconds: float
    server_qps: float | None

    def __post_init__(self) -> None:
        numbers = {"budget": self.budget, "loadgen-seconds": self.loadgen_seconds, "server-qps": self.server_qps}
        for name, value in numbers.items():
            if value is not None and not math.isfinite(value):  # click's ranges let nan and inf through
                raise UsageError(f"--{name}: expected a finite number, found {value}")
        if self.accept and self.compare is None:
            raise UsageError("--accept: expected a run to compare with, found none; add --compare")
        if (self.compare is not None) + (self.against is not None) + self.self_check > 1:
            raise UsageError("bench: expected one of --compare, --against and --self-check, found more")


def run_bench(request: BenchRequest, note: Say, finish: Callable[[BenchRecord], None]) -> int:
    """Measure and compare; returns the exit code.

    `note` gets lines for people during the run; `finish` gets the record at the end, also after an interrupt. With
    `out`, its `bench.json` always holds what is measured so far.
    """
    started = time.monotonic()

    def say(line: str) -> None:
        note(f"{time.monotonic() - started:6.1f} s  {line}")

    _pin(request.cpus)
    options, old = _options(request), None
    parse_percent(request.max_slowdown)
    if request.loadgen:
        check_scenarios(request.loadgen)
    if request.against is not None:
        python_of(request.against)
    if request.compare is not None:
        old = read_record(request.compare)
        check_conditions(old["conditions"], lab_conditions(options), request.accept)
    earlier = None if request.resume is None else read_partial(request.resume, lab_conditions(options))
    subjects = list(_subjects(request, say))
    check = _check(request, subjects, options, old)
    bundles_s = time.monotonic() - started
    if request.resume is not None and earlier is not None:
        check_request(request.resume, earlier, request_of(subjects, options))
    keep = None if request.out is None else partial(_keep, request.out)
    record = cast(BenchRecord, run_lab(subjects, options, say, keep, earlier) | {"loadgen": []})
    record["seconds_by_part"]["bundles"] = bundles_s
    if keep is not None:
        keep(record)
    regression = None
    try:  # show what is measured, whatever happens to the rest
        if record["complete"]:
            for row in _loadgen(request, subjects, options.threads, say):
                record["loadgen"].append(row)
            regression = check(record, say)
    except KeyboardInterrupt:
        record["left_out"].append("the rest of LoadGen and of further runs: interrupted")
        raise
    finally:
        if keep is not None:
            keep(record)
        finish(record)
    if not record["complete"]:
        return INTERRUPTED
    return 0 if regression is None else EXIT_CODES[regression.verdict]


def _check(
    request: BenchRequest, subjects: Sequence[Subject], options: LabOptions, old: BenchRecord | None
) -> Callable[[BenchRecord, Say], Regression | None]:
    """Make the further runs and the requested regression check, and store them in the record."""
    made = [subject.name for subject in subjects[len(request.bundles) :]]
    backends = request.backends or (backends_here() if made else ())
    precisions = request.precisions or (lab_precisions(backends) if made else ())
    side = this_side(subjects, options, precisions, backends, _work(request))
    other = None if request.against is None else other_side(request.against, side, made)
    there = None if other is None else other.prepare()["conditions"]  # first, so that an error shows at once
    count, limit = request.runs or RUNS, parse_percent(request.max_slowdown)

    def check(record: BenchRecord, say: Say) -> Regression | None:
        runs = Runs(record, side, other, say, there)
        if old is not None:
            regression = compare_with_stored(runs_of(old), runs, count, limit)
            compared = f"the earlier run {request.compare}"
        elif other is not None:
            regression, compared = compare_in_turn(runs, count, limit), f"{request.against}, in turn"
        elif request.self_check:
            regression, compared = check_itself(runs, count, limit), "itself, every other run"
        else:
            runs.measure((request.runs or 1) - 1, runs.groups)
            return None
        record["regression"] = {**regression.to_json(), "compared": compared}
        return regression

    return check


def _options(request: BenchRequest) -> LabOptions:
    return LabOptions(
        batches=request.batches,
        threads=check_threads(request.threads),
        rounds=request.rounds,
        budget_s=None if request.budget is None else 60 * request.budget,
        peers=_work(request) if request.peers else None,
        end_to_end=not request.only_latency,
        memory=not request.only_latency,
        profile=request.profile,
        contexts=request.contexts,
    )


def _loadgen(request: BenchRequest, subjects: Sequence[Subject], threads: int, say: Say) -> Iterator[LoadgenRow]:
    for subject in subjects:
        for engine in subject.engines:
            for scenario in request.loadgen or ():
                row = run_loadgen(
                    subject.bundle, engine, scenario, threads, request.loadgen_seconds, request.server_qps
                )
                say(f"{row['network']} {engine} {row['label']}: {row['result']} {row['reason']}")
                yield row


def _keep(folder: Path, record: LabRecord | BenchRecord) -> None:
    """Store what is measured so far, in case the rest fails."""
    write_file(folder / "bench.json", canonical_json({"loadgen": [], **record}))


def _pin(cpus: Sequence[str] | None) -> None:
    """Bind this process, and with it all engines, to the given cores."""
    if cpus is None:
        return
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus})
    except (ValueError, OSError) as error:
        here = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UsageError(f"--cpus {','.join(cpus)}: expected cores among {here}, found {error}") from error


def _subjects(request: BenchRequest, say: Say) -> Iterator[Subject]:
    if not request.bundles and not request.depths:
        raise UsageError("bench: expected BUNDLEs or --depths, found neither; try --depths 18,50")
    for backend in request.backends or ():
        find_compiler(backend)
    for path in request.bundles:
        yield bundle_subject(Bundle.open(path), request.precisions or (), request.backends or ())
    for depth in request.depths or ():
        from resnetrt.benchmarks.depth.bundles import lab_bundle  # with torch, which devices lack

        backends = request.backends or backends_here()
        precisions = request.precisions or lab_precisions(backends)
        yield lab_bundle(_name(depth), precisions, backends, _work(request), say)


def _work(request: BenchRequest) -> Path:
    """The folder for things that take long to make: bundles and models of peers, by default in the user's cache.

    Raises `EnvironmentFault` where such things are to be made, and can't be: on a device with a read-only root.
    """
    if request.work is not None:
        return request.work
    folder = Path.home() / ".cache" / "resnetrt" / "bench"
    if request.depths or request.peers:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise EnvironmentFault(f"bench: expected a cache that can be written, found {folder}; name one with --work")
    return folder


def lab_precisions(backends: Sequence[str]) -> tuple[str, ...]:
    """The precisions for `--depths`; FP16 too if one of `backends` has cells of a GPU."""
    for_gpus = any("cpu" not in find_compiler(backend).TARGETS for backend in backends)
    on_gpu = for_gpus or ("onnxruntime" in backends and cuda_is_here())
    return (*LAB_PRECISIONS, "fp16") if on_gpu else LAB_PRECISIONS


def _name(depth: int) -> str:
    from resnetrt.models import DEFINITIONS

    name = f"resnet{depth}"
    if name not in DEFINITIONS:
        known = sorted(int(n.removeprefix("resnet")) for n in DEFINITIONS if n.removeprefix("resnet").isdecimal())
        raise UsageError(f"--depths: expected some of {', '.join(map(str, known))}, found {depth}")
    return name
