"""What a check is, and what came of it."""

from dataclasses import dataclass, field
from typing import Any

# skipped: a requirement is missing, or no time was left. crashed: its process died, or ended without a word.
STATUSES = ("passed", "failed", "crashed", "hung", "skipped")
BAD = frozenset({"failed", "crashed", "hung"})


@dataclass(frozen=True)
class GpuCheck:
    """A check: the `function`, as `module:name`, which gets `arguments` and returns its measurements.

    What `given` names comes before the arguments: `cuda-bindings` or `pycuda` opened as a `Cuda`, `kernels` with
    compiled kernels, or `folder` and the path of an empty folder. `network` names the one whose bundle it needs, whose
    path then comes next. `needs` are requirements of `needs.PROBES`; each is asked before anything is prepared.
    """

    name: str
    function: str
    arguments: tuple[Any, ...] = ()
    given: str | None = None
    needs: tuple[str, ...] = ()
    network: str | None = None
    limit_s: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """The `status` of a check is one of `STATUSES`; with its measurements, or the reason, and the last lines of it."""

    name: str
    status: str
    reason: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    last_lines: tuple[str, ...] = ()
