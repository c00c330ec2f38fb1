"""What a compiler hands back, and what compilers share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resnetrt.engine_record import EngineRecord
from resnetrt.errors import UsageError
from resnetrt.tensor_spec import TensorSpec

MIN_SHARE = 0.5  # of an engine's multiply-accumulates in the precision of its name, to be called by it


@dataclass(frozen=True)
class CompiledEngine:
    """An engine in memory: file content and extension, versions of the tools, options as used, inputs and outputs.

    `details` go into the sidecar, for the backend's own modules to read; `companions` are JSON objects to store beside
    it, by the end of their file names.
    """

    blob: bytes
    extension: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tools: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    companions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def record(self, name: str, backend: str, precision: str, target: str) -> EngineRecord:
        """The record of this engine under the id `name`, as one that no bundle holds."""
        return EngineRecord(
            id=name,
            backend=backend,
            precision=precision,
            target=target,
            inputs=self.inputs,
            outputs=self.outputs,
            tools=self.tools,
            options=self.options,
            details=self.details,
        )


def require_precision(backend: str, target: str, precision: str, known: Iterable[str]) -> None:
    """Raise `UsageError` if `backend` does not compute in `precision` on `target`."""
    known = sorted(known)
    if precision not in known:
        raise UsageError(f"{backend} on {target}: expected precision {', '.join(known)}, found {precision}")


def require_known_options(backend: str, options: Mapping[str, Any], known: Iterable[str] = ()) -> None:
    """Raise `UsageError` naming the first option that `backend` does not have."""
    known = sorted(known)
    for name in options:
        if name not in known:
            raise UsageError.unknown(f"option of {backend}", name, known)


def choose_target(backend: str, targets: tuple[str, ...], target: str | None) -> str:
    """`target`, or the first of `targets` for None. Raises `UsageError` for one that is not among them."""
    if target is None:
        return targets[0]
    if target not in targets:
        raise UsageError.unknown(f"{backend} target", target, targets)
    return target
