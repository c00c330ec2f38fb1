"""Whether this process is a fork of the one that made something: a fork has no other threads, and locks stay locked."""

import os
from dataclasses import dataclass

from resnetrt.errors import UsageError


@dataclass
class Process:
    """`forks` differs between processes that Python forked from each other.

    An object that owns threads keeps the number from its creation. Asking for the pid instead would cost a system call
    each time.
    """

    forks: int = 0

    def require(self, forks: int, what: str) -> None:
        """Raise `UsageError` unless `what`, made under the number `forks`, was made in this process."""
        if forks != self.forks:
            raise UsageError(
                f"{what}: it belongs to the process that made it, and this one was forked from that later, without its "
                "threads; load or make it again in this process"
            )


PROCESS = Process()


def _count_fork() -> None:
    PROCESS.forks += 1


os.register_at_fork(after_in_child=_count_fork)
