"""What `resnetrt bench` does with its options: choose networks, measure, write, print."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetrt.cli.output import emit_json, note, print_table
from resnetrt.errors import UsageError

if TYPE_CHECKING:
    from resnetrt.benchmarks.lab import Subject

HEADER = ("network", "engine", "batch", "n", "median ms [95 %]", "p90", "p99", "x eager", "GOPS", "% of peak", "limit")


@dataclass(frozen=True)
class BenchRequest:
    """The options of `resnetrt bench`, as given."""

    bundles: Sequence[Path]
    depths: Sequence[int] | None
    precisions: Sequence[str] | None
    backends: Sequence[str] | None
    batches: Sequence[int]
    threads: int | None
    cpus: Sequence[str] | None
    rounds: int
    budget: float | None
    peers: bool
    profile: str | None
    only_latency: bool
    work: Path | None
    out: Path | None
    compare: Path | None
    max_slowdown: str
    accept: Sequence[str]
    loadgen: Sequence[str] | None
    loadgen_seconds: float
    server_qps: float | None


def run_bench(request: BenchRequest, as_json: bool) -> int:
    """Measure, write what was asked for, print; returns the exit code."""
    from resnetrt.benchmarks.lab import LabOptions, run_lab
    from resnetrt.runtime.load import check_threads

    started = time.monotonic()

    def say(line: str) -> None:
        note(f"{time.monotonic() - started:6.1f} s  {line}")

    _pin(request.cpus)
    options = LabOptions(
        batches=request.batches,
        threads=check_threads(request.threads),
        rounds=request.rounds,
        budget_s=None if request.budget is None else 60 * request.budget,
        peers=request.peers,
        end_to_end=not request.only_latency,
        memory=not request.only_latency,
        profile=request.profile,
    )
    subjects = list(_subjects(request, say))
    record = run_lab(subjects, options, say)
    _show(record, as_json)
    return 0


def _pin(cpus: Sequence[str] | None) -> None:
    """Bind this process, and so all engines, to the given cores."""
    if cpus is None:
        return
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus})
    except (ValueError, OSError) as error:
        here = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UsageError(f"--cpus {','.join(cpus)}: expected cores among {here}, found {error}") from error


def _subjects(request: BenchRequest, say: Any) -> "Iterator[Subject]":
    from resnetrt.benchmarks.lab import Subject, bundle_subject
    from resnetrt.benchmarks.lab_bundles import default_work, lab_bundle
    from resnetrt.bundle import Bundle
    from resnetrt.export.compilers import COMPILERS, find_compiler

    if not request.bundles and not request.depths:
        raise UsageError("bench: expected BUNDLEs or --depths, found neither; try --depths 18,50")
    for backend in request.backends or ():
        find_compiler(backend)
    for path in request.bundles:
        yield bundle_subject(Bundle.open(path), request.precisions or (), request.backends or ())
    for depth in request.depths or ():
        precisions, backends = request.precisions or ("fp32", "int8"), request.backends or tuple(COMPILERS)
        yield Subject(*lab_bundle(_name(depth), precisions, backends, request.work or default_work(), say))


def _name(depth: int) -> str:
    from resnetrt.models import DEFINITIONS

    name = f"resnet{depth}"
    if name not in DEFINITIONS:
        known = sorted(int(n.removeprefix("resnet")) for n in DEFINITIONS if n.removeprefix("resnet").isdecimal())
        raise UsageError(f"--depths: expected some of {', '.join(map(str, known))}, found {depth}")
    return name


def _show(record: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(dict(record))
        return
    print_table("Latency beside eager PyTorch in the same run", HEADER, map(_cells, record["results"]), left=2)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    from resnetrt.benchmarks.report import format_ms

    low, high = row["ci_ms"]
    return (
        row["network"],
        row["engine"] + (" *" if row["disturbed"] else ""),
        str(row["batch"]),
        str(row["n"]),
        f"{format_ms(row['median_ms'])} [{format_ms(low)}, {format_ms(high)}]",
        format_ms(row["p90_ms"]),
        format_ms(row["p99_ms"]),
        _number(row["times_faster"], 2),
        _number(row["gops"], 0),
        _number(row["percent_of_peak"], 0),
        row["limit"] or "-",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
