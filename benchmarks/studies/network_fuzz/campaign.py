"""A run over many networks: resumable, within a time budget; failures are shrunk and written to files."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.studies.network_fuzz.shrink import shrink
from resnetrt.benchmarks.studies.network_fuzz.spec import NetworkSpec
from resnetrt.benchmarks.studies.network_fuzz.verdict import FAILURES, Finding, NetworkVerdict
from resnetrt.benchmarks.studies.network_fuzz.workers import WorkerProcess
from resnetrt.errors import DataError
from resnetrt.progress import track

RESULTS = "results.jsonl"
_SEEDS = 1_000_000  # networks of one seed


@dataclass(frozen=True)
class CampaignRequest:
    """`networks` of a `seed`, judged by `workers` processes in at most `budget_s`, each network in at most `limit_s`.

    Up to `shrunk` failures of each class are shrunk.
    """

    networks: int
    seed: int
    out: Path
    workers: int = 2
    budget_s: float = float("inf")
    limit_s: float = 180.0
    shrunk: int = 2


@dataclass
class Campaign:
    """The state of a run: verdicts by network seed, specs of failed networks, `unbuildable` seeds, shrunk failures."""

    verdicts: dict[int, NetworkVerdict] = field(default_factory=dict)
    specs: dict[int, NetworkSpec] = field(default_factory=dict)
    unbuildable: list[int] = field(default_factory=list)
    shrunk: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ends(self) -> Counter[str]:
        """The number of networks by outcome."""
        return Counter(verdict.end for verdict in self.verdicts.values())

    @property
    def classes(self) -> Counter[str]:
        """The number of networks by class of failure; one network can be in several classes."""
        return Counter(text for verdict in self.verdicts.values() for text in {f.label for f in verdict.failures})

    @property
    def refusals(self) -> Counter[str]:
        """The number of networks by class of refusal."""
        return Counter(
            text
            for verdict in self.verdicts.values()
            for text in {f.label for f in verdict.findings if f.kind not in FAILURES}
        )

    def to_json(self) -> dict[str, Any]:
        """The object of `--json`."""
        seconds: Counter[str] = Counter()
        for verdict in self.verdicts.values():
            seconds.update(verdict.seconds)
        return {
            "networks": len(self.verdicts),
            "ends": dict(self.ends),
            "failures": dict(self.classes.most_common()),
            "refusals": dict(self.refusals.most_common()),
            "unbuildable": len(self.unbuildable),
            "shrunk": self.shrunk,
            "mean_s": {stage: total / max(1, len(self.verdicts)) for stage, total in seconds.most_common(8)},
        }


def run_campaign(request: CampaignRequest) -> Campaign:
    """Judge the networks that `request.out` has no verdict for yet, then shrink the failures.

    Raises `DataError` if the results there are damaged.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    campaign = _read(request.out / RESULTS)
    wanted = [request.seed * _SEEDS + index for index in range(request.networks)]
    left = [seed for seed in wanted if seed not in campaign.verdicts]
    deadline = time.monotonic() + request.budget_s
    pool = _Pool(request)
    try:
        done = track(
            pool.map(pool.judge, left, deadline), "networks", len(wanted), "networks", done=len(wanted) - len(left)
        )
        with (request.out / RESULTS).open("a") as results:
            for seed, spec, verdict in done:
                record = {"seed": seed, "spec": spec and spec.to_json(), "verdict": verdict and verdict.to_json()}
                results.write(json.dumps(record) + "\n")
                results.flush()
                _enter(campaign, seed, spec, verdict)
        chosen = _chosen(campaign, request.shrunk)
        for record in track(pool.map(pool.shrink, chosen, deadline), "shrinking", len(chosen), "failures"):
            campaign.shrunk.append(record)
            _write_failure(request.out / "failures", record)
    finally:
        pool.close()
    return campaign


class _Pool:
    """Threads with a worker process each."""

    def __init__(self, request: CampaignRequest) -> None:
        self._threads = ThreadPoolExecutor(request.workers)
        self._workers = [
            WorkerProcess(request.limit_s, request.out / f"worker-{i}.log") for i in range(request.workers)
        ]
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def map(self, run: Callable[[WorkerProcess, Any], Any], items: list[Any], deadline: float) -> Iterator[Any]:
        """Results of `run` for every item, each with a worker, as they complete; none starts after `deadline`."""
        waiting, running = iter(items), set[Future[Any]]()
        while True:
            while len(running) < len(self._workers) and time.monotonic() < deadline:
                item = next(waiting, None)
                if item is None:
                    break
                running.add(self._threads.submit(self._with_worker, run, item))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()

    def _with_worker(self, run: Callable[[WorkerProcess, Any], Any], item: Any) -> Any:
        worker = self._idle.get()
        try:
            return run(worker, item)
        finally:
            self._idle.put(worker)

    @staticmethod
    def judge(worker: WorkerProcess, seed: int) -> tuple[int, NetworkSpec | None, NetworkVerdict | None]:
        """A network and its verdict."""
        return seed, *worker.judge(seed)

    @staticmethod
    def shrink(worker: WorkerProcess, failure: tuple[NetworkSpec, Finding]) -> dict[str, Any]:
        """The record of a failure, shrunk."""
        spec, finding = failure

        def same_failure(candidate: NetworkSpec) -> Finding | None:
            verdict = worker.judge(candidate, finding.stage)[1]
            return next((f for f in verdict.failures if f.label == finding.label), None) if verdict else None

        small = shrink(spec, lambda candidate: same_failure(candidate) is not None)
        last = same_failure(small) or finding
        return {
            "class": finding.label,
            "kind": finding.kind,
            "stage": finding.stage,
            "what": last.what,
            "network": small.listing(),
            "spec": small.to_json(),
            "seed": spec.seed,
        }

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()


def _chosen(campaign: Campaign, most: int) -> list[tuple[NetworkSpec, Finding]]:
    """The first few failures of each class, from the networks with the fewest other failures."""
    order = sorted(campaign.verdicts, key=lambda seed: len(campaign.verdicts[seed].failures))
    counts: Counter[str] = Counter()
    chosen = []
    for seed in order:
        for finding in {f.label: f for f in campaign.verdicts[seed].failures}.values():
            if counts[finding.label] < most and seed in campaign.specs:
                counts[finding.label] += 1
                chosen.append((campaign.specs[seed], finding))
    return sorted(chosen, key=lambda item: FAILURES.index(item[1].kind))


def _read(path: Path) -> Campaign:
    campaign = Campaign()
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            record = json.loads(line)
            spec = record["spec"] and NetworkSpec.from_json(record["spec"])
            verdict = record["verdict"] and NetworkVerdict.from_json(record["verdict"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: expected a network and its verdict, found {error}; remove it"
            ) from error
        _enter(campaign, record["seed"], spec, verdict)
    return campaign


def _enter(campaign: Campaign, seed: int, spec: NetworkSpec | None, verdict: NetworkVerdict | None) -> None:
    if verdict is None:
        campaign.unbuildable.append(seed)
        return
    campaign.verdicts[seed] = verdict
    if spec is not None and verdict.failures:
        campaign.specs[seed] = spec


def _write_failure(folder: Path, record: dict[str, Any]) -> None:
    words = re.sub(r"[^a-z0-9]+", "-", record["class"].lower()).strip("-")[:70]
    text = f"# {record['class']}\n# {record['what']}\n{record['network']}"
    write_file(folder / f"{words}-{record['seed']}.json", (json.dumps(record, indent=2) + "\n").encode())
    write_file(folder / f"{words}-{record['seed']}.txt", text.encode())
