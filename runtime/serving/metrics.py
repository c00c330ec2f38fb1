"""Prometheus metrics: Triton's names, and our own under `resnetrt_`."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, UntypedMetricFamily
from prometheus_client.registry import Collector

from resnetrt.runtime.serving.model import VERSION
from resnetrt.runtime.serving.repository import Entry, Repository
from resnetrt.runtime.shadow import ShadowCheck, ShadowCollector

_US = 1_000
# upper limits of the latency histogram, in ms
_LIMITS_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0)
# Triton's reasons for what we count
_REASONS = {
    "failed": "BACKEND",
    "rejected": "REJECTED",
    "expired": "OTHER",
    "dropped": "OTHER",
    "invalid": "OTHER",
    "cancelled": "CANCELED",
}
_DURATIONS = {
    "nv_inference_request_duration_us": ("success", "Cumulative inference request duration in microseconds"),
    "nv_inference_queue_duration_us": ("queue", "Cumulative inference queuing duration in microseconds"),
    "nv_inference_compute_input_duration_us": ("compute_input", "Cumulative compute input duration in microseconds"),
    "nv_inference_compute_infer_duration_us": (
        "compute_infer",
        "Cumulative compute inference duration in microseconds",
    ),
    "nv_inference_compute_output_duration_us": ("compute_output", "Cumulative compute output duration in microseconds"),
}


class ServeCollector(Collector):
    """Reads the counters when it is scraped. Those of Triton are untyped: a counter's name would end in `_total`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Any]:
        """All metrics of all models."""
        entries = list(self._repository.entries.items())
        yield from _triton_counters(entries)
        yield from _own(entries)
        ready = GaugeMetricFamily("resnetrt_server_ready", "1 if every model is loaded and the server is not stopping")
        ready.add_metric([], float(self._repository.ready))
        yield ready


def registry_of(repository: Repository) -> CollectorRegistry:
    """A registry with the server's metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServeCollector(repository))
    registry.register(ShadowCollector(lambda: _shadow_checks(repository)))
    return registry


def _shadow_checks(repository: Repository) -> Iterator[tuple[str, ShadowCheck]]:
    for name, entry in repository.entries.items():
        if entry.model is not None and entry.model.shadow is not None:
            yield name, entry.model.shadow


def _triton_counters(entries: list[tuple[str, Entry]]) -> Iterator[Any]:
    labels = ["model", "version"]
    success = UntypedMetricFamily("nv_inference_request_success", "Number of successful requests", labels=labels)
    failure = UntypedMetricFamily(
        "nv_inference_request_failure", "Number of failed requests", labels=[*labels, "reason"]
    )
    count = UntypedMetricFamily("nv_inference_count", "Number of inferences performed (images)", labels=labels)
    executions = UntypedMetricFamily("nv_inference_exec_count", "Number of model executions", labels=labels)
    pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests that wait in the queue", labels=labels)
    durations = {
        name: UntypedMetricFamily(name, f"{text} (does not include cached requests)", labels=labels)
        for name, (_, text) in _DURATIONS.items()
    }
    for name, entry in entries:
        values, record = [name, VERSION], entry.statistics.to_json()
        stats = record["inference_stats"]
        success.add_metric(values, stats["success"]["count"])
        count.add_metric(values, record["inference_count"])
        executions.add_metric(values, record["execution_count"])
        pending.add_metric(values, 0 if entry.model is None else entry.model.batcher.waiting)
        reasons = dict.fromkeys(sorted(set(_REASONS.values())), 0)
        for outcome, number in entry.statistics.outcomes().items():
            reasons[_REASONS[outcome]] += number
        for reason, number in reasons.items():
            failure.add_metric([*values, reason], number)
        for metric, (key, _) in _DURATIONS.items():
            durations[metric].add_metric(values, stats[key]["ns"] / _US)
    yield from (success, failure, count, executions, pending, *durations.values())


def _own(entries: list[tuple[str, Entry]]) -> Iterator[Any]:
    engine = GaugeMetricFamily(
        "resnetrt_engine_info",
        "1 for the engine that runs",
        labels=["model", "engine", "backend", "precision", "target"],
    )
    fallbacks = GaugeMetricFamily(
        "resnetrt_engine_fallbacks", "Engines that failed their self-test before the one that runs", labels=["model"]
    )
    loads = CounterMetricFamily("resnetrt_model_loads_total", "How often the model was loaded", labels=["model"])
    outcomes = CounterMetricFamily(
        "resnetrt_requests_without_output_total", "Requests that got no output, by outcome", labels=["model", "outcome"]
    )
    sizes = CounterMetricFamily("resnetrt_batches_total", "Batches that ran, by images", labels=["model", "batch_size"])
    latency = HistogramMetricFamily(
        "resnetrt_request_duration_seconds", "From queueing to the outputs, successful requests", labels=["model"]
    )
    for name, entry in entries:
        loads.add_metric([name], entry.loads)
        if entry.model is not None:
            record = entry.model.record
            engine.add_metric([name, record.id, record.backend, record.precision, record.target], 1)
            fallbacks.add_metric([name], len(entry.model.fallbacks))
        for outcome, number in entry.statistics.outcomes().items():
            outcomes.add_metric([name, outcome], number)
        for row in entry.statistics.to_json()["batch_stats"]:
            sizes.add_metric([name, str(row["batch_size"])], row["compute_infer"]["count"])
        histogram = entry.statistics.latency
        buckets = [
            (str(limit / 1e3), float(n)) for limit, n in zip(_LIMITS_MS, histogram.below(_LIMITS_MS), strict=True)
        ]
        latency.add_metric([name], [*buckets, ("+Inf", float(histogram.count))], histogram.sum_ms / 1e3)
    yield from (engine, fallbacks, loads, outcomes, sizes, latency)
