"""The latency-vs-depth lab: networks x engines x batches beside eager PyTorch, and what the numbers say."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from resnetrt.benchmarks import baselines
from resnetrt.benchmarks.end_to_end import measure_end_to_end
from resnetrt.benchmarks.evaluate import session_infer
from resnetrt.benchmarks.fit import break_even, fit_all
from resnetrt.benchmarks.lab_time import Parts, Shares
from resnetrt.benchmarks.latency import BASELINE, Contender, fill_batch, measure_latency
from resnetrt.benchmarks.memory import measure_memory
from resnetrt.benchmarks.noise import watch
from resnetrt.benchmarks.peaks import measure_peaks, merge_peaks
from resnetrt.benchmarks.reference import find_reference, rebuild_eager
from resnetrt.benchmarks.roofline import annotate
from resnetrt.benchmarks.timing import Schedule
from resnetrt.bundle import Bundle
from resnetrt.conditions import conditions
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.golden import Golden
from resnetrt.preprocess import FloatArray
from resnetrt.runtime import load
from resnetrt.runtime.session import Session

if TYPE_CHECKING:
    from resnetrt.models import Cost

SCHEMA_VERSION = 1
Say = Callable[[str], None]
Keep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Subject:
    """A network to measure and its engines; `left_out` says in lines what is not measured and why."""

    bundle: Bundle
    engines: Sequence[str]
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class LabOptions:
    """What to measure of every network. `budget_s` is for latency, end to end and memory together; None is no limit.

    What does not fit is left out and said. Peaks, and making bundles, are not within it.
    """

    batches: Sequence[int] = (1, 8)
    threads: int = 2
    rounds: int = 11
    budget_s: float | None = None
    peers: bool = False
    end_to_end: bool = True
    memory: bool = True
    profile: str | None = None

    def schedule(self, share_s: float | None) -> Schedule:
        """Rounds for one group of cells; one that still moves may take three times as many."""
        return Schedule(rounds=self.rounds, max_rounds=3 * self.rounds, budget_s=share_s)


@dataclass
class Findings:
    """What has been measured so far."""

    results: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    end_to_end: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    noise: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    parts: Parts = field(default_factory=Parts)
    costs: dict[str, "Cost"] = field(default_factory=dict)


def run_lab(subjects: Sequence[Subject], options: LabOptions, say: Say, keep: Keep | None = None) -> dict[str, Any]:
    """Measure every subject and return the whole record: `results[]` and all that was learnt from it.

    `keep` gets the record so far, `complete` false, after every group of cells. Ctrl-C ends the measuring once there
    is a first group: the record is then that far, `complete` false.

    Raises `UsageError` without subjects or with two of one name.
    """
    names = [subject.bundle.manifest.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"bench: expected each network once, found {', '.join(names) or 'none'}")
    started = time.monotonic()
    backends, precisions = _kinds(subjects)
    found = Findings()
    with found.parts.part("peaks"):
        peaks = measure_peaks(backends, precisions, options.threads)
    say(f"peak {', '.join(f'{name} {gops:.0f} GOPS' for name, gops in peaks['best'].items())}")
    share = Shares(options.budget_s, len(subjects) * (len(options.batches) + options.end_to_end + options.memory))
    complete = True

    def note_group() -> None:
        if keep is not None:
            keep(_record(found, options, peaks, time.monotonic() - started, complete=False))

    try:
        for subject in subjects:
            measure_subject(subject, options, found, share, say, note_group)
        with found.parts.part("peaks"):
            peaks = merge_peaks(peaks, measure_peaks(backends, precisions, options.threads))
    except KeyboardInterrupt:
        if not found.results:
            raise
        complete = False
        say("interrupted: what is measured so far is kept")
    say(f"time: {found.parts}; the budget is for latency, end to end and memory")
    return _record(found, options, peaks, time.monotonic() - started, complete)


def bundle_subject(bundle: Bundle, precisions: Sequence[str], backends: Sequence[str]) -> Subject:
    """The engines of a user's bundle at the wanted precisions on the wanted backends (empty: all).

    Raises `UsageError` if there is none.
    """
    engines = []
    for name, record in sorted(bundle.manifest.engines.items()):
        sidecar = bundle.read_json(record.sidecar)
        wanted = (not precisions or sidecar["precision"] in precisions, not backends or sidecar["backend"] in backends)
        engines += [name] if all(wanted) else []
    if not engines:
        known = ", ".join(sorted(bundle.manifest.engines)) or "none; make one with: resnetrt compile"
        raise UsageError(f"bench {bundle.path}: no engine at the wanted precisions and backends; it has {known}")
    return Subject(bundle, engines)


def _kinds(subjects: Sequence[Subject]) -> tuple[list[str], list[str]]:
    sidecars = [_sidecar(subject.bundle, engine) for subject in subjects for engine in subject.engines]
    backends = sorted({sidecar["backend"] for sidecar in sidecars})
    return backends, sorted({"fp32", *(sidecar["precision"] for sidecar in sidecars)})


def _sidecar(bundle: Bundle, engine: str) -> dict[str, Any]:
    return bundle.read_json(bundle.manifest.engines[engine].sidecar)


def measure_subject(
    subject: Subject, options: LabOptions, found: Findings, share: Shares, say: Say, note_group: Callable[[], None]
) -> None:
    """Add to `found` what `options` asks of one network, as far as `share` goes; `note_group` follows each group."""
    bundle = subject.bundle
    name = bundle.manifest.name
    found.left_out += subject.left_out
    module = _module(bundle, found)
    depth = _describe(bundle, module, found)
    images = bundle.manifest.preprocessing.normalize(Golden.of(bundle).frames)
    with ExitStack() as stack:
        sessions = {
            engine: stack.enter_context(load(bundle, engine, threads=options.threads)) for engine in subject.engines
        }
        for batch in options.batches:
            if _is_spent(found, f"{name} batch {batch}", share):
                continue
            contenders = list(_contenders(bundle, module, sessions, fill_batch(images, batch), options, found))
            with found.parts.part("latency"), watch() as noise:
                rows = measure_latency(name, depth, contenders, images, (batch,), options.schedule(share.next()))
            found.noise.append({"network": name, "batch": batch, **noise.to_json()})
            found.results += [row | {"disturbed": noise.disturbed} for row in rows]
            say(_line(name, batch, rows, noise.reasons))
            note_group()
        if options.end_to_end and not _is_spent(found, f"{name} end to end", share):
            eager = None if module is None else baselines.eager(module, options.threads).infer
            with found.parts.part("end to end"):
                found.end_to_end += measure_end_to_end(
                    name, bundle.manifest.preprocessing, sessions, eager, options.schedule(share.next())
                )
        found.layers += _profiles(name, sessions, images, options.profile)
    own = Shares(share.next() if options.memory else None, 1)
    for engine in subject.engines if options.memory else ():
        if _is_spent(found, f"{name} {engine} memory", share, own):
            continue
        try:
            with found.parts.part("memory"):
                found.memory.append({"network": name, **measure_memory(bundle, engine, options.threads)})
        except (EnvironmentFault, subprocess.TimeoutExpired) as error:
            found.left_out.append(f"{name} {engine} memory: {error}")


def _is_spent(found: Findings, what: str, *shares: Shares) -> bool:
    """Whether `what` must be left out because one of the budgets is spent; that is noted."""
    spent = any(share.spent for share in shares)
    if spent:
        found.left_out.append(f"{what}: the budget was spent")
    return spent


def _module(bundle: Bundle, found: Findings) -> Any:
    """The eager module, checked against the golden logits; None, and said so, where it can't be rebuilt."""
    reference = find_reference(bundle)
    if reference.name == BASELINE:
        return rebuild_eager(bundle, None)
    found.left_out.append(f"{bundle.manifest.name} {BASELINE}: {reference.why}")
    return None


def _describe(bundle: Bundle, module: Any, found: Findings) -> int | None:
    """Add the network to `models[]` and return its depth, where known."""
    from resnetrt.models import DEFINITIONS, cost

    manifest = bundle.manifest
    known = DEFINITIONS.get(manifest.model.get("definition", ""))
    depth = None if known is None else known.config.depth
    parameters = gmacs = None
    if module is not None:
        found.costs[manifest.name] = counted = cost(module, manifest.input.shape)
        parameters, gmacs = counted.parameters, counted.gmacs
    found.models.append({"name": manifest.name, "depth": depth, "parameters": parameters, "gmacs": gmacs})
    return depth


def _contenders(
    bundle: Bundle,
    module: Any,
    sessions: Mapping[str, Session],
    batch: FloatArray,
    options: LabOptions,
    found: Findings,
) -> Iterator[Contender]:
    if module is not None:
        yield baselines.eager(module, options.threads)
    for engine, session in sessions.items():
        sidecar = session.sidecar
        infer = session_infer(session)
        on_device = session.execution_ms if session.on_device else None
        yield Contender(engine, sidecar["backend"], sidecar["precision"], infer, session.threads, on_device)
    if options.peers:
        for _, peer in baselines.peers(module, bundle, batch, options.threads):
            if isinstance(peer, Contender):
                yield peer
            elif peer not in found.left_out:
                found.left_out.append(peer)


def _profiles(
    name: str, sessions: Mapping[str, Session], images: FloatArray, engine: str | None
) -> Iterator[dict[str, Any]]:
    """Time by layer of the chosen engine, at batch 1."""
    for found, session in sessions.items():
        if found == engine:
            layers = [asdict(layer) for layer in session.profile(images[:1])]
            yield {"network": name, "engine": found, "batch": 1, "layers": layers}


def _line(name: str, batch: int, rows: Sequence[Mapping[str, Any]], reasons: Sequence[str]) -> str:
    cells = ", ".join(f"{row['engine']} {row['median_ms']:.2f}" for row in rows)
    mark = f"  DISTURBED: {'; '.join(reasons)}" if reasons else ""
    return f"{name} batch {batch}, ms: {cells}{mark}"


def _record(
    found: Findings, options: LabOptions, peaks: dict[str, Any], seconds: float, complete: bool
) -> dict[str, Any]:
    results = annotate(found.results, found.costs, peaks)
    return {
        "schema_version": SCHEMA_VERSION,
        "conditions": lab_conditions(options),
        "complete": complete,
        "seconds": seconds,
        "seconds_by_part": dict(found.parts.seconds),
        "disturbed": any(noise["disturbed"] for noise in found.noise),
        "models": found.models,
        "results": results,
        "peaks": peaks,
        "fits": fit_all(results),
        "break_even": break_even(results),
        "end_to_end": found.end_to_end,
        "memory": found.memory,
        "layers": found.layers,
        "noise": found.noise,
        "left_out": found.left_out,
    }


def lab_conditions(options: LabOptions) -> dict[str, Any]:
    """The machine and versions, the cores this process is bound to, and how was measured."""
    schedule = asdict(options.schedule(options.budget_s))
    pinned = {"cpus": sorted(os.sched_getaffinity(0)), "threads": options.threads}
    return conditions() | pinned | {"schedule": schedule}
