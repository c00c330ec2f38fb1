"""What came of a check."""

from dataclasses import dataclass, field
from typing import Any

# skipped: a requirement is missing, or no time was left. crashed: its process died, or ended without a word.
STATUSES = ("passed", "failed", "crashed", "hung", "skipped")
BAD = frozenset({"failed", "crashed", "hung"})


@dataclass(frozen=True)
class Outcome:
    """The `status` of a check is one of `STATUSES`; with its measurements, or the reason, and the last lines of it."""

    name: str
    status: str
    reason: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    last_lines: tuple[str, ...] = ()
