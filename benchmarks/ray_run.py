"""The gate's batches on a Ray cluster: a pool of actors, each with the reference and all engines open.

Bundle and data lie at the same path on every node. Every batch is computed as it is locally, so the results are the
same; a batch whose worker died is computed again by another. What actors send is safetensors.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt import errors
from resnetrt.benchmarks.accuracy import OnFrames, Part, Runner, by_title, run_batch
from resnetrt.benchmarks.evaluate import calibration_hashes
from resnetrt.benchmarks.gate_run import GateRequest, images_sha256, open_engines, open_images
from resnetrt.benchmarks.latency import Infer
from resnetrt.benchmarks.outcomes import part_from_bytes, part_to_bytes
from resnetrt.benchmarks.reference import find_reference
from resnetrt.bundle import Bundle
from resnetrt.calibration.data import Dataset
from resnetrt.errors import BackendMissing, CheckFailed, DataError, ResnetrtError, UsageError
from resnetrt.settings import read_settings

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """What an actor needs to open the same bundle, data and engines as the driver, and to know that it did."""

    bundle: str
    request: GateRequest
    engines: tuple[str, ...]
    fp32_sha256: str
    images_sha256: str


def runner_on_ray(bundle: Bundle, request: GateRequest, engines: list[str], count: int, images: str) -> Runner:
    """A runner for `compare_accuracy` over `count` images, on the cluster at `request.ray`.

    That is `auto` (the one running here), `local` (started for this run) or an address. Raises `BackendMissing` without
    Ray or a cluster, and what any actor raises.
    """
    fp32 = bundle.manifest.files[bundle.manifest.variants["fp32"].file].sha256
    job = Job(str(bundle.path), _absolute(request), tuple(engines), fp32, images)
    uses_gpu = any(bundle.read_json(bundle.manifest.engines[name].sidecar).get("target") != "cpu" for name in engines)

    def run(start: int, size: int) -> Iterable[Part]:
        assert request.ray is not None
        ray = import_ray()
        with _Connection(ray, request.ray):
            yield from _parts(ray, job, range(start, count, size), uses_gpu)

    return run


def import_ray() -> Any:
    """Ray, with its usage report and its own log lines off; raises `BackendMissing` naming the extra."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendMissing(
            f"--ray: expected the package ray with its data part, found none ({error}); "
            "run: pip install 'resnetrt[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


class _Connection:
    """The cluster for the time of a run; one that the process is connected to already is used and left alone."""

    def __init__(self, ray: Any, address: str) -> None:
        self._ray, self._address = ray, address
        self._ours = not ray.is_initialized()

    def __enter__(self) -> None:
        if not self._ours:
            return
        options = {"include_dashboard": False} if self._address == "local" else {}
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BackendMissing(
                f"--ray {self._address}: expected a running cluster, found: {reason}; "
                "start one with: ray start --head, or use --ray local"
            ) from error

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()


def _parts(ray: Any, job: Job, starts: range, uses_gpu: bool) -> Iterator[Part]:
    """The batches that begin at `starts`, in order, as soon as each one and all before it are there."""
    threads = read_settings().threads
    actors = _actor_count(ray, threads, uses_gpu)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    scored = rows.map_batches(
        Scorer,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(starts))),
        num_cpus=threads,
        num_gpus=1 if uses_gpu else 0,
        runtime_env={"env_vars": {"RESNETRT_THREADS": str(threads), "RESNETRT_PROGRESS": "0"}},
    )
    waiting: dict[int, Part] = {}
    wanted = iter(starts)
    following = next(wanted)
    try:
        for row in scored.iter_rows():
            if row["error"]:
                raise _raised(row["error"])
            waiting[int(row["start"])] = part_from_bytes(row["part"])
            while following in waiting:
                yield waiting.pop(following)
                following = next(wanted, -1)
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[-300:]
        raise BackendMissing(f"--ray: the cluster gave up: {reason}; the same command goes on from here") from error


def _actor_count(ray: Any, threads: int, uses_gpu: bool) -> int:
    """Actors that find room, each on one node: it can't take cores of two."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [
        min([int(node.get("CPU", 0)) // threads, *([int(node.get("GPU", 0))] if uses_gpu else [])]) for node in nodes
    ]
    if not sum(rooms):
        found = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise UsageError(
            f"--ray: expected a node with {threads} CPUs{' and a GPU' if uses_gpu else ''} for an actor, "
            f"found nodes of {found}; set RESNETRT_THREADS lower"
        )
    return sum(rooms)


class Scorer:
    """An actor: opens everything at its first batch and answers with the outcomes, or with the error as JSON."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack = ExitStack()
        self._opened: _Opened | None = None

    def __call__(self, rows: Columns) -> Columns:
        """`start` `(1,)` to `part` (safetensors) and `error` (empty if there is none)."""
        part, error = b"", ""
        try:
            if self._opened is None:
                self._opened = _open(self._job, self._stack)
            part = part_to_bytes(self._opened.score(int(rows["start"][0]), self._job.request))
        except ResnetrtError as problem:
            error = json.dumps({"type": type(problem).__name__, "message": str(problem)})
        return {"start": rows["start"], "part": np.array([part], object), "error": np.array([error], object)}


@dataclass(frozen=True)
class _Opened:
    bundle: Bundle
    dataset: Dataset
    engines: dict[str, Infer | OnFrames]
    known: frozenset[str] | None

    def score(self, start: int, request: GateRequest) -> Part:
        stop = min(start + request.batch_size, len(self.dataset))
        batch = next(self.dataset.select(np.arange(start, stop)).batches(request.batch_size))
        recipe = self.bundle.manifest.preprocessing
        return run_batch(self.engines, batch, self.dataset, recipe, self.known, request.allow_overlap)


def _open(job: Job, stack: ExitStack) -> _Opened:
    bundle = Bundle.open(job.bundle)
    if bundle.manifest.files[bundle.manifest.variants["fp32"].file].sha256 != job.fp32_sha256:
        raise errors.BundleError(f"bundle {job.bundle}: another one lies at this path on another node; copy it there")
    dataset = open_images(bundle, job.request)
    if images_sha256(dataset) != job.images_sha256:
        raise DataError(f"data {job.request.data}: other images lie at this path on another node; copy them there")
    reference = find_reference(bundle, job.request.weights)
    engines, _ = stack.enter_context(open_engines(bundle, job.engines, job.request.budget is not None))
    hashes = calibration_hashes(bundle)
    return _Opened(bundle, dataset, by_title(reference.infer, engines), None if hashes is None else frozenset(hashes))


def _raised(text: str) -> ResnetrtError:
    """The error that an actor met, as the class it was."""
    record = json.loads(text)
    kind = getattr(errors, record["type"], CheckFailed)
    error: ResnetrtError = kind(record["message"])
    return error


def _absolute(request: GateRequest) -> GateRequest:
    """The request with paths that hold in another process's folder."""
    data = str(Path(request.data).absolute()) if Path(request.data).exists() else request.data
    weights = None if request.weights is None else request.weights.absolute()
    return replace(request, data=data, weights=weights, results=None, ray=None)
