"""One loaded bundle: its batcher and what the protocol says about it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.runtime.serving.datatypes import v2_name
from resnetrt.runtime.serving.options import ModelSpec, ServeOptions
from resnetrt.runtime.session import Session
from resnetrt.runtime.shadow import Alarm, ShadowCheck, start_shadow
from resnetrt.runtime.stream import Batcher
from resnetrt.runtime.stream.instances import load_instances
from resnetrt.runtime.stream.statistics import Statistics
from resnetrt.tensor_spec import TensorSpec

VERSION = "1"


class ServedModel:
    """A bundle whose engine passed its self-test and ran every batch size once. Made by `load`."""

    def __init__(
        self, name: str, bundle: Bundle, session: Session, batcher: Batcher, shadow: ShadowCheck | None
    ) -> None:
        self.name = name
        self.batcher = batcher
        self.shadow = shadow
        self.labels = session.labels or ()
        self.preprocessing = bundle.manifest.preprocessing
        self.input = session.inputs[0]
        self.outputs = session.outputs
        self.session = session
        self.record = session.record
        self.fallbacks = session.fallbacks

    @classmethod
    def load(
        cls, spec: ModelSpec, options: ServeOptions, statistics: Statistics, on_alarm: Callable[[Alarm], None]
    ) -> "ServedModel":
        """Load, self-test and warm up; blocks. Raises what `runtime.load` and `start_shadow` raise.

        `on_alarm` is called in another thread when the shadow check sees drift.
        """
        bundle = Bundle.open(spec.path)
        instances = load_instances(bundle, spec.engine, options.instances, options.threads, options.fallback)
        session = instances.first
        with ExitStack() as undo:
            undo.callback(instances.close)
            shadow = None
            if options.shadow is not None:
                find = options.reference_of
                reference = None if find is None else find(bundle)
                baseline = None
                if options.baseline_of is not None:
                    baseline = options.baseline_of(bundle, session.record.id)
                shadow = start_shadow(
                    bundle, session, options.shadow, reference=reference, baseline=baseline, on_alarm=on_alarm
                )
                undo.callback(shadow.close)
            after = None if shadow is None else shadow.offer
            batcher = Batcher(instances, options.batching, statistics=statistics, after=after)
            undo.callback(batcher.close, drain=False)
            batcher.warm_up()
            undo.pop_all()
        return cls(spec.name, bundle, session, batcher, shadow)

    def close(self) -> None:
        """Run what waits, then free the engine."""
        self.batcher.close()
        if self.shadow is not None:
            self.shadow.close()

    def facts(self) -> dict[str, Any]:
        """Which engine runs, why not the one that was asked for, and why it is suspected, if it is."""
        alarm = None if self.shadow is None else self.shadow.state().alarm
        return {
            "backend": self.record.backend,
            "precision": self.record.precision,
            "target": self.record.target,
            "engine": self.record.id,
            "fallbacks": list(self.fallbacks),
            "drift": None if alarm is None else alarm.reason,
        }

    @property
    def trusted(self) -> bool:
        """False once its device is lost, or the shadow check saw drift that is to make the server not ready."""
        return not self.batcher.lost and (self.shadow is None or self.shadow.state().ready)

    def metadata(self) -> dict[str, Any]:
        """The V2 protocol's model metadata."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self._platform(),
            "inputs": [_tensor_metadata(self.input)],
            "outputs": [_tensor_metadata(spec) for spec in self.outputs],
        }

    def config(self) -> dict[str, Any]:
        """Triton's model configuration, as JSON."""
        options = self.batcher.options
        kind = "KIND_CPU" if self.record.target == "cpu" else "KIND_GPU"
        facts = self.facts()
        facts |= {"fallbacks": " | ".join(self.fallbacks), "drift": facts["drift"] or ""}
        return {
            "name": self.name,
            "platform": self._platform(),
            "backend": "resnetrt",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.batcher.max_batch_size,
            "input": [_tensor_config(self.input)],
            "output": [_tensor_config(spec) for spec in self.outputs],
            "instance_group": [{"name": self.name, "kind": kind, "count": len(self.batcher.sessions)}],
            "dynamic_batching": {
                "preferred_batch_size": list(options.preferred_batch_size),
                "max_queue_delay_microseconds": options.max_queue_delay_microseconds,
                "default_queue_policy": {
                    "max_queue_size": options.max_queue_size,
                    "default_timeout_microseconds": options.default_timeout_microseconds,
                },
            },
            "parameters": {key: {"string_value": value} for key, value in facts.items()},
        }

    def statistics(self) -> dict[str, Any]:
        """The V2 protocol's statistics of this model."""
        record = self.batcher.statistics.to_json()
        record["inference_stats"] |= {"cache_hit": {"count": 0, "ns": 0}, "cache_miss": {"count": 0, "ns": 0}}
        return {"name": self.name, "version": VERSION, **record, "memory_usage": [], "response_stats": {}}

    def _platform(self) -> str:
        return f"resnetrt_{self.record.backend}"


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": v2_name(spec.dtype), "shape": [-1, *_image_axes(spec)]}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{v2_name(spec.dtype)}", "dims": _image_axes(spec)}


def _image_axes(spec: TensorSpec) -> list[int]:
    return [-1 if axis is None else axis for axis in spec.shape[1:]]
