"""The latency-vs-depth lab: networks x engines x batches beside eager PyTorch, and what follows from the numbers."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from resnetrt.benchmarks.depth.baselines import Peer, eager, eager_on_gpu, fp32_file
from resnetrt.benchmarks.depth.bench_record import LabRecord, LayerTimeRow, NetworkRow, ProfileRow
from resnetrt.benchmarks.depth.findings import Findings
from resnetrt.benchmarks.depth.plan import LabOptions, Subject, lab_conditions, request_of
from resnetrt.benchmarks.depth.shares import Shares
from resnetrt.benchmarks.load.contexts import measure_contexts
from resnetrt.benchmarks.measure.end_to_end import Route, measure_end_to_end
from resnetrt.benchmarks.measure.gpu_peaks import GpuPeaks, measure_gpu_peaks
from resnetrt.benchmarks.measure.in_place import place
from resnetrt.benchmarks.measure.latency import (
    BASELINE,
    CPU,
    GPU,
    Contender,
    LatencyRow,
    fill_batch,
    measure_latency,
    session_infer,
    watched,
)
from resnetrt.benchmarks.measure.memory import measure_memory
from resnetrt.benchmarks.measure.noise import watch
from resnetrt.benchmarks.measure.overhead import measure_overhead
from resnetrt.benchmarks.measure.peaks import Peaks, measure_peaks, merge_peaks
from resnetrt.benchmarks.measure.torch_calls import torch_gpu
from resnetrt.benchmarks.verify.reference import NoEager, checked_eager
from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, EnvironmentFault, UsageError
from resnetrt.golden import Golden
from resnetrt.preprocess import UInt8Array
from resnetrt.progress import Say
from resnetrt.runtime import load
from resnetrt.runtime.backends.tensorrt import TensorRtSession
from resnetrt.runtime.cuda import chosen_device
from resnetrt.runtime.session import Session

SCHEMA_VERSION = 1
Keep = Callable[[LabRecord], None]


def run_lab(
    subjects: Sequence[Subject],
    options: LabOptions,
    say: Say,
    keep: Keep | None = None,
    earlier: LabRecord | None = None,
) -> LabRecord:
    """Measure every subject and return the whole record: `results[]` and everything derived from it.

    After every group of cells `keep` gets the record so far, with `complete` false. After the first group, Ctrl-C ends
    the measuring, and the record so far is returned, with `complete` false. `earlier` is such a record of the same
    request (see `compare.same_conditions`): its groups are not measured again.

    Raises `UsageError` without subjects, for two subjects of one name, or for a profile of an unknown engine.
    """
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"bench: expected each network once, found {', '.join(names) or 'none'}")
    started = time.monotonic()
    options.check_profile(subjects)
    backends, precisions = _kinds(subjects, CPU)
    on_gpu, gpu_precisions = _kinds(subjects, GPU)
    findings = Findings() if earlier is None else Findings.of(earlier)
    before = 0.0 if earlier is None else float(earlier["seconds"])

    def measure_roofs() -> Peaks:
        say("peaks of this machine ...")
        with findings.parts.part("peaks"):
            peaks = measure_peaks(backends, precisions, options.threads)
            if on_gpu:
                peaks["gpu"] = measure_gpu_peaks(on_gpu, gpu_precisions)
            findings.peaks = peaks if findings.peaks is None else merge_peaks(findings.peaks, peaks)
        return findings.peaks

    def record(complete: bool) -> LabRecord:
        return {
            "schema_version": SCHEMA_VERSION,
            "conditions": lab_conditions(options),
            "request": request_of(subjects, options),
            **findings.record(before + time.monotonic() - started, complete),
        }

    def note_group() -> None:
        if keep is not None:
            keep(record(complete=False))

    peaks = measure_roofs()
    say(f"peak {_reached(peaks)}")
    if on_gpu:
        say(f"peak of the GPU {_reached(peaks['gpu'])}")
    if not findings.overhead:
        say("what the runtime adds to a call ...")
        with findings.parts.part("overhead"):
            try:
                findings.overhead = measure_overhead(backends, options.threads)
            except BackendMissing as error:
                findings.leave_out(f"the runtime's overhead: {error}")
    weights = [weight for subject in subjects for weight in options.weights(subject)]
    chosen = chosen_device("bench") if on_gpu or torch_gpu() else None
    gpu = "" if chosen is None else chosen.uuid
    lab = Lab(options, findings, Shares(options.budget_s, weights), say, note_group, gpu)
    complete = True
    try:
        for subject in subjects:
            lab.measure(subject)
        measure_roofs()
    except KeyboardInterrupt:
        if not findings.results:
            raise
        complete = False
        say("interrupted: what is measured so far is kept")
    say(f"time: {findings.parts}; the budget is for latency, end to end and memory")
    return record(complete)


def _reached(peaks: Peaks | GpuPeaks) -> str:
    """The peaks in words, or why there are none."""
    reached = ", ".join(f"{name} {gops:.0f} GOPS" for name, gops in peaks["best"].items())
    why = next((row["why"] for row in peaks["matmul"] if row.get("why")), "no backend multiplies here")
    return reached or f"not measured: {why}"


def _kinds(subjects: Sequence[Subject], device: str) -> tuple[list[str], list[str]]:
    """The backends of all engines on a device, and the precisions that its cells have, with the baseline's."""
    records = [subject.bundle.read_engine(engine) for subject in subjects for engine in subject.engines]
    there = [record for record in records if _device(record) == device]
    return sorted({record.backend for record in there}), sorted({"fp32", *(record.precision for record in there)})


def _device(record: EngineRecord) -> str:
    return CPU if record.target == CPU else GPU


@dataclass(frozen=True)
class Lab:
    """Measures one network after the other.

    It adds to `found` what `options` asks for and `found` lacks, as far as the budget in `share` lasts. `note_group` is
    called after each group of cells. `gpu` is the UUID of the GPU whose clocks are watched; all GPUs if it is empty.
    """

    options: LabOptions
    findings: Findings
    share: Shares
    say: Say
    note_group: Callable[[], None]
    gpu: str = ""

    def measure(self, subject: Subject) -> None:
        """Measure latency at each batch size, end-to-end times, layers and memory."""
        bundle, options, findings = subject.bundle, self.options, self.findings
        findings.leave_out(*subject.left_out)
        module = _module(bundle, findings)
        depth = _describe(bundle, module, findings)
        frames = Golden.of(bundle).frames
        rivals = self._rivals(bundle, module)
        with ExitStack() as stack:
            sessions = {
                engine: stack.enter_context(load(bundle, engine, threads=options.threads))
                for engine in (*subject.engines, *(subject.frame_engines if options.end_to_end else ()))
            }
            contenders = [item for rival in rivals if rival.on_images for item in rival.contenders]
            for engine in subject.engines:
                contenders += engine_contenders(engine, sessions[engine], frames)
            for batch in options.batches:
                self._latency(subject, depth, contenders, frames, batch)
            for batch in options.batches if options.contexts else ():
                self._contexts(subject, sessions, frames, batch)
            if options.end_to_end:
                self._end_to_end(subject, sessions, rivals)
            findings.layers += self._profiles(subject, sessions, frames)
        if options.memory:
            self._memory(subject)

    def _rivals(self, bundle: Bundle, module: Any) -> list[Peer]:
        """The baseline, and the other peers if asked for; why one is missing is noted."""
        options, name = self.options, bundle.manifest.name
        rivals = []
        if module is not None:
            rivals.append(eager(module, bundle, options.threads))
            rivals += eager_on_gpu(module, bundle, options.threads)
        elif "fp32" in bundle.manifest.variants:
            rivals.append(fp32_file(bundle, options.threads))
        if options.peers is not None:
            from resnetrt.benchmarks.depth.rivals import open_peers  # with the packages that devices lack

            self.say(f"{name}: peers, NNCF's model is made on the first run only")
            with self.findings.parts.part("peers"):
                for peer in open_peers(module, bundle, options.peers, options.threads):
                    if isinstance(peer, Peer):
                        rivals.append(peer)
                    else:
                        self.findings.leave_out(peer)
        return rivals

    def _latency(
        self, subject: Subject, depth: int | None, contenders: Sequence[Contender], frames: UInt8Array, batch: int
    ) -> None:
        share_s, findings, name = self.share.next(), self.findings, subject.name
        if findings.has_latency(name, batch) or findings.is_spent(f"{name} batch {batch}", self.share):
            return
        images = subject.bundle.manifest.preprocessing.normalize(frames)
        if self.options.peers is not None:
            with findings.parts.part("peers"):  # torch.compile compiles for each batch size
                for item in contenders:
                    item.infer(fill_batch(images if item.images is None else item.images, batch))
        self.say(f"{name} batch {batch}, {len(contenders)} engines in rotated blocks{_about(share_s)} ...")
        with findings.parts.part("latency"), watch(self.gpu) as noise:
            rows = measure_latency(name, depth, contenders, images, (batch,), self.options.schedule(share_s))
        findings.noise.append({"network": name, "batch": batch, **noise.to_json()})
        findings.results += watched(rows, noise.disturbed)
        self.say(_line(name, batch, rows, noise.reasons))
        self.note_group()

    def _contexts(self, subject: Subject, sessions: Mapping[str, Session], frames: UInt8Array, batch: int) -> None:
        """Throughput of each engine with several contexts, apart from the latencies."""
        share_s, findings, name, options = self.share.next(), self.findings, subject.name, self.options
        if findings.has_contexts(name, batch) or findings.is_spent(f"{name} contexts, batch {batch}", self.share):
            return
        own_s = None if share_s is None else share_s / len(subject.engines)
        schedule = replace(options.schedule(own_s), warm_up_s=0.1)
        with findings.parts.part("contexts"):
            for engine in subject.engines:
                images = fill_batch(sessions[engine].prepare(frames), batch)
                device = _device(sessions[engine].record)
                with watch(self.gpu) as noise:
                    rows = measure_contexts(
                        subject.bundle, engine, device, images, options.contexts, options.threads, schedule
                    )
                findings.contexts += [{**row, "disturbed": noise.disturbed} for row in rows]
                told = ", ".join(f"{row['contexts']}: {row['images_per_s']:.0f}" for row in rows)
                self.say(f"{name} {engine} batch {batch}, images a second by contexts: {told}")
        self.note_group()

    def _end_to_end(self, subject: Subject, sessions: Mapping[str, Session], rivals: Sequence[Peer]) -> None:
        share_s, findings, name = self.share.next(), self.findings, subject.name
        if findings.has_end_to_end(name) or findings.is_spent(f"{name} end to end", self.share):
            return
        routes = {rival.engine: Route(rival.prepare, rival.infer) for rival in rivals}
        routes |= {engine: Route(session.prepare, session.infer) for engine, session in sessions.items()}
        # two paths per engine: with a full warm-up, that would take a third of the time
        schedule = replace(self.options.schedule(share_s), warm_up_s=0.1)
        self.say(f"{name} end to end, from a JPEG and from a frame{_about(share_s)} ...")
        with findings.parts.part("end to end"):
            findings.end_to_end += measure_end_to_end(name, subject.bundle.manifest.preprocessing, routes, schedule)
        self.note_group()

    def _profiles(self, subject: Subject, sessions: Mapping[str, Session], frames: UInt8Array) -> Iterator[ProfileRow]:
        """Time per layer of the chosen engine, at batch 1."""
        name, engine, batch = subject.name, self.options.profile or "", 1
        known = {(row["network"], row["engine"], row["batch"]) for row in self.findings.layers}
        session = sessions.get(engine)
        if session is not None and (name, engine, batch) not in known:
            times = session.profile(session.prepare(frames[:1]))
            layers = [
                LayerTimeRow(name=layer.name, op=layer.op, ms=layer.ms, precision=layer.precision) for layer in times
            ]
            yield {"network": name, "engine": engine, "batch": batch, "layers": layers}

    def _memory(self, subject: Subject) -> None:
        own, findings, name = Shares(self.share.next()), self.findings, subject.name
        for engine in subject.engines:
            if findings.has_memory(name, engine) or findings.is_spent(f"{name} {engine} memory", self.share, own):
                continue
            self.say(f"{name} {engine} memory and start-up ...")
            try:
                with findings.parts.part("memory"):
                    row = measure_memory(subject.bundle, engine, self.options.threads)
                findings.memory.append(row)
            except (EnvironmentFault, subprocess.TimeoutExpired) as error:
                findings.leave_out(f"{name} {engine} memory: {error}")
        self.note_group()


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f", about {seconds:.0f} s"


def _module(bundle: Bundle, findings: Findings) -> Any:
    """The eager module, checked against the golden logits; None, with a note, if it can't be rebuilt."""
    try:
        return checked_eager(bundle)
    except NoEager as error:
        findings.leave_out(f"{bundle.manifest.name} {BASELINE}: {error}")
        return None


def _describe(bundle: Bundle, module: Any, findings: Findings) -> int | None:
    """Add the network to `models[]` and return its depth, if known."""
    manifest = bundle.manifest
    depth = parameters = gmacs = None
    if module is not None:
        from resnetrt.models import DEFINITIONS, cost

        known = DEFINITIONS.get(manifest.model.get("definition", ""))
        depth = None if known is None else known.config.depth
        findings.costs[manifest.name] = counted = cost(module, manifest.input.shape)
        parameters, gmacs = counted.parameters, counted.gmacs
    row: NetworkRow = {"name": manifest.name, "depth": depth, "parameters": parameters, "gmacs": gmacs}
    findings.models += [row] if row not in findings.models else []
    return depth


def engine_contenders(engine: str, session: Session, frames: UInt8Array) -> list[Contender]:
    """An engine of the bundle as a contender, TensorRT's also without transfers. One that takes frames gets frames."""
    record = session.record
    on_device = session.execution_ms if session.on_device else None
    own = frames if session.inputs[0].dtype == "uint8" else None
    infer = session_infer(session)
    contender = Contender(
        engine, record.backend, record.precision, infer, session.threads, on_device, own, _device(record)
    )
    return (
        [contender, contender.in_place(partial(place, session))]
        if isinstance(session, TensorRtSession)
        else [contender]
    )


def _line(name: str, batch: int, rows: Sequence[LatencyRow], reasons: Sequence[str]) -> str:
    cells = ", ".join(f"{row['engine']} {row['median_ms']:.2f}" for row in rows)
    mark = f"  DISTURBED: {'; '.join(reasons)}" if reasons else ""
    return f"{name} batch {batch}, ms: {cells}{mark}"
