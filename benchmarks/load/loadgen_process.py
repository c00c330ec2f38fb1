"""One LoadGen scenario against one engine, in its own process: LoadGen keeps settings between the tests of a process.

python -m resnetrt.benchmarks.load.loadgen_process CONFIG.json
"""

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.golden import Golden
from resnetrt.runtime import load
from resnetrt.runtime.session import Array, Session

MULTI_STREAM_SAMPLES = 8  # from the benchmark's rules for resnet50
OFFLINE_BATCH = 8
SERVER_LATENCY_NS = 15_000_000
SERVER_LOAD = 0.6  # share of the single-stream rate, if no rate is given


def run_scenario(config: dict[str, Any]) -> None:
    """Run the scenario that `config` describes; LoadGen writes its logs to `config["logs"]`."""
    import mlperf_loadgen as lg

    bundle = Bundle.open(Path(config["bundle"]))
    with load(bundle, config["engine"], threads=config["threads"]) as session:
        images = bundle.manifest.preprocessing.normalize(Golden.of(bundle).frames)
        batch = {"MultiStream": MULTI_STREAM_SAMPLES, "Offline": OFFLINE_BATCH}.get(config["scenario"], 1)
        expected_ns = _expected_ns(session, images, batch)
        system = System(session, images, batch, lg)
        issue = system.enqueue if config["scenario"] == "Server" else system.answer
        sut = lg.ConstructSUT(issue, lambda: None)
        samples = lg.ConstructQSL(len(images), len(images), lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(sut, samples, _settings(lg, config, batch, expected_ns), _logs(lg, config["logs"]))
        system.stop()
        lg.DestroyQSL(samples)
        lg.DestroySUT(sut)


class System:
    """Answers LoadGen's queries with an engine: immediately, or from a queue in a worker thread."""

    def __init__(self, session: Session, images: Array, batch: int, lg: Any) -> None:
        self._session = session
        self._images = images
        self._batch = batch
        self._lg = lg
        self._waiting: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    def answer(self, query: Sequence[Any]) -> None:
        """Infer the samples of `query` in batches and report each batch when it is done."""
        for start in range(0, len(query), self._batch):
            part = query[start : start + self._batch]
            logits = next(iter(self._session.infer(self._images[[sample.index for sample in part]]).values()))
            classes = logits.argmax(1).astype(np.int32)  # must live until the call below returns
            address, size = classes.ctypes.data, classes.itemsize
            responses = [
                self._lg.QuerySampleResponse(sample.id, address + place * size, size)
                for place, sample in enumerate(part)
            ]
            self._lg.QuerySamplesComplete(responses)

    def enqueue(self, query: Sequence[Any]) -> None:
        """Queue `query` for the worker, so that LoadGen can issue the next one."""
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, daemon=True)
            self._worker.start()
        self._waiting.put(list(query))

    def stop(self) -> None:
        """End the worker after the queries that are still queued."""
        if self._worker is not None:
            self._waiting.put(None)
            self._worker.join()

    def _work(self) -> None:
        get: Callable[[], Sequence[Any] | None] = self._waiting.get
        while (query := get()) is not None:
            self.answer(query)


def _expected_ns(session: Session, images: Array, batch: int) -> int:
    part = images[np.arange(batch) % len(images)]
    durations = []
    for _ in range(10):
        start = time.perf_counter_ns()
        session.infer(part)
        durations.append(time.perf_counter_ns() - start)
    return int(np.median(durations[3:]))


def _settings(lg: Any, config: dict[str, Any], batch: int, expected_ns: int) -> Any:
    """The benchmark's targets for resnet50, with the duration asked for and LoadGen's early stopping left on."""
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, config["scenario"])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1000 * config["seconds"])
    settings.min_query_count = 1
    settings.single_stream_expected_latency_ns = expected_ns
    settings.single_stream_target_latency_percentile = 0.9
    settings.multi_stream_expected_latency_ns = expected_ns
    settings.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
    settings.multi_stream_target_latency_percentile = 0.99
    settings.offline_expected_qps = 1e9 * batch / expected_ns
    settings.server_target_qps = config["qps"] or SERVER_LOAD * 1e9 / expected_ns
    settings.server_target_latency_ns = SERVER_LATENCY_NS
    settings.server_target_latency_percentile = 0.99
    return settings


def _logs(lg: Any, folder: str) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


if __name__ == "__main__":
    run_scenario(json.loads(Path(sys.argv[1]).read_text()))
