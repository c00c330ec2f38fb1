"""Batches of a data set on a Ray cluster: a pool of actors, with answers in the order of the batches.

Bundle and data must be at the same path on every node. A batch whose worker died is computed again by another worker.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt import errors
from resnetrt.errors import BackendMissing, CheckFailed, ResnetrtError, UsageError
from resnetrt.parts import import_part

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Pool:
    """Actors of the class `worker`, made with `job`, each on `cpus` cores, or with `gpu` also on a GPU.

    An actor is called with `start` `(1,)` and returns the result of `answer`. `address` is `auto` (the cluster running
    here), `local` (one started for this run) or an address.
    """

    address: str
    worker: type
    job: Any
    cpus: int
    gpu: bool = False

    def run(self, starts: range) -> Iterator[bytes]:
        """The answers for the batches that begin at `starts`, in order, each as soon as all before it are there.

        Raises `BackendMissing` without Ray or a cluster, and whatever an actor raises.
        """
        ray = import_ray()
        with _Connection(ray, self.address):
            yield from self._answers(ray, starts)

    def _answers(self, ray: Any, starts: range) -> Iterator[bytes]:
        actors = _actor_count(ray, self.cpus, self.gpu)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
        answered = rows.map_batches(
            self.worker,
            fn_constructor_args=(self.job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(starts))),
            num_cpus=self.cpus,
            num_gpus=1 if self.gpu else 0,
            runtime_env={"env_vars": _actor_environment(self.cpus)},
        )
        waiting: dict[int, bytes] = {}
        wanted = iter(starts)
        following = next(wanted)
        try:
            for row in answered.iter_rows():
                if row["error"]:
                    raise _raised(row["error"])
                waiting[int(row["start"])] = row["part"]
                while following in waiting:
                    yield waiting.pop(following)
                    following = next(wanted, -1)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-300:]
            raise BackendMissing(f"--ray: the cluster gave up: {reason}; run the same command again") from error


def _actor_environment(cpus: int) -> dict[str, str]:
    """Ray shows each actor a GPU of its own, which is number 0 there, so a choice of the driver's means nothing."""
    return {"RESNETRT_THREADS": str(cpus), "RESNETRT_PROGRESS": "0", "RESNETRT_DEVICE": ""}


def answer(rows: Columns, compute: Callable[[int], bytes]) -> Columns:
    """What an actor returns: `start`, `part`, and `error` as JSON, empty if there is none."""
    part, error = b"", ""
    try:
        part = compute(int(rows["start"][0]))
    except ResnetrtError as problem:
        error = json.dumps({"type": type(problem).__name__, "message": str(problem)})
    return {"start": rows["start"], "part": np.array([part], object), "error": np.array([error], object)}


def import_ray() -> Any:
    """Import Ray without usage report and log lines. Raises `BackendMissing` naming the extra."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import_part("ray.data", "--ray")
    ray = import_part("ray", "--ray")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


class _Connection:
    """The cluster for the duration of a run; an existing connection of this process is used and left open."""

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


def _actor_count(ray: Any, cpus: int, gpu: bool) -> int:
    """How many actors fit; each needs its cores on a single node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [min([int(node.get("CPU", 0)) // cpus, *([int(node.get("GPU", 0))] if gpu else [])]) for node in nodes]
    if not sum(rooms):
        resources = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise UsageError(
            f"--ray: expected a node with {cpus} CPUs{' and a GPU' if gpu else ''} for an actor, "
            f"found nodes of {resources}; set RESNETRT_THREADS lower"
        )
    return sum(rooms)


def _raised(text: str) -> ResnetrtError:
    """The error that an actor reported, as an exception of its original class."""
    record = json.loads(text)
    kind = getattr(errors, record["type"], CheckFailed)
    error: ResnetrtError = kind(record["message"])
    return error
