"""What a server is told: addresses, limits, how models are loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.runtime.shadow import Baseline, Reference, ShadowOptions
from resnetrt.runtime.stream import BatchOptions


@dataclass(frozen=True)
class Limits:
    """What one client may ask for. A body counts decompressed too; times in seconds.

    `head_timeout_s` is for a request's head, `body_timeout_s` for its whole body: a slow client is cut off.
    """

    max_body_bytes: int = 64 << 20
    max_head_bytes: int = 32 << 10
    max_connections: int = 512
    max_image_pixels: int = 50_000_000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0


@dataclass(frozen=True)
class ModelSpec:
    """A bundle to serve under `name`; `engine` None is its only one."""

    name: str
    path: Path
    engine: str | None = None


@dataclass(frozen=True)
class ServeOptions:
    """Where and how to serve. Port 0 is any free one. `control`: clients may load and unload models.

    `instances` of each engine as `load_instances` counts them.

    With `shadow` requests are sampled and compared with what `reference_of` gives for a bundle, or with its FP32 ONNX
    file where that is None. `baseline_of` gives what an engine of a bundle does while it is sound; where that is None
    it is measured on the bundle's golden images.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    batching: BatchOptions = field(default_factory=BatchOptions)
    instances: int | str = 1
    threads: int | None = None
    fallback: bool = True
    control: bool = False
    exit_timeout_s: float = 30.0
    shadow: ShadowOptions | None = None
    reference_of: Callable[[Bundle], Reference | None] | None = None
    baseline_of: Callable[[Bundle, str], Baseline | None] | None = None
    limits: Limits = field(default_factory=Limits)


def check_names(specs: list[ModelSpec]) -> None:
    """Raise `UsageError` unless each model has a name of its own."""
    names = [spec.name for spec in specs]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise UsageError(f"two bundles are named {twins[0]}; give one another name: NAME=PATH")
