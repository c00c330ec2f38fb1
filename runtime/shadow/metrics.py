"""Prometheus metrics of shadow checks; the package prometheus_client is imported when they are collected."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from resnetrt.runtime.shadow.check import ShadowCheck, ShadowState


def _progress(state: ShadowState) -> float:
    """The progress of the evidence towards the alarm, on a logarithmic scale: 0 is none, 1 is the alarm."""
    return max(0.0, math.log(max(state.evidence, 1.0)) / math.log(state.threshold))


_COUNTERS = {
    "resnetrt_shadow_seen": ("Requests that passed the shadow check", "seen"),
    "resnetrt_shadow_compared": ("Requests compared with the reference", "compared"),
    "resnetrt_shadow_dropped": ("Sampled requests dropped because the check was busy", "dropped"),
    "resnetrt_shadow_repeated": ("Sampled requests whose very input was compared already", "repeated"),
    "resnetrt_shadow_grouped": ("Sampled requests that say no more than an earlier one compared", "grouped"),
    "resnetrt_shadow_unusable": ("Sampled requests without a finite reference", "unusable"),
    "resnetrt_shadow_failed": ("Sampled requests whose comparison raised an error", "failed"),
    "resnetrt_shadow_flips": ("Compared requests whose class differs from the reference's", "flips"),
    "resnetrt_shadow_noisy": ("Compared requests noisier than the baseline's limit", "noisy"),
    "resnetrt_shadow_unlike_copy": ("Compared requests that a copy of the engine answers otherwise", "unlike_copy"),
    "resnetrt_shadow_copy_compared": ("Requests compared with a copy of the engine", "copy_compared"),
    "resnetrt_shadow_alarms_saved": ("Alarms saved", "saved"),
    "resnetrt_shadow_save_failures": ("Alarms that could not be saved", "save_failures"),
}
_GAUGES: dict[str, tuple[str, Callable[[ShadowState], float | None]]] = {
    "resnetrt_shadow_evidence_ratio": ("Evidence of drift; 1 is an alarm", _progress),
    "resnetrt_shadow_alarm": ("1 after an alarm", lambda state: float(state.alarm is not None)),
    "resnetrt_shadow_last_sqnr_db": ("SQNR of the last compared request", lambda state: state.last_sqnr_db),
}
METRIC_NAMES = (*(f"{name}_total" for name in _COUNTERS), *_GAUGES)


class ShadowCollector:
    """Register it with a prometheus_client registry; `checks` gives the model's name and its check, at each scrape."""

    def __init__(self, checks: Callable[[], Iterable[tuple[str, ShadowCheck]]]) -> None:
        self._checks = checks

    def collect(self) -> Iterator[Any]:
        """The metric families, with the labels `model` and `engine`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        states = [((model, check.engine), check.state()) for model, check in self._checks()]
        for name, (text, field) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=("model", "engine"))
            for labels, state in states:
                counter.add_metric(labels, getattr(state, field) or 0)
            yield counter
        for name, (text, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=("model", "engine"))
            for labels, state in states:
                value = read(state)
                if value is not None:
                    gauge.add_metric(labels, value)
            yield gauge
