"""A process with a time limit: how it ended is a record, whatever it did."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAST_LINES = 20
_LONGEST_LINE = 300
_TAIL_BYTES = 64 << 10
_POLL_S = 0.02
_GRACE_S = 3.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: `died` says so in words, and is empty for exit code 0 in time.

    `last_lines` are the last that it wrote to either stream. `hung`: it was killed at its time limit.
    """

    seconds: float
    died: str
    hung: bool
    last_lines: tuple[str, ...]


def run_isolated(command: Sequence[str], limit_s: float, log: Path) -> Ended:
    """Run `command` to its end, or kill it and all that it started after `limit_s` seconds.

    Both streams go to the file `log`, since a full pipe would stop the process. At the limit it gets SIGABRT first, at
    which `python -X faulthandler` writes what each thread was doing. An exception here, as Ctrl-C, kills it too.
    """
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    hung = False
    try:
        if not _ends(process, limit_s):
            hung = True
            os.kill(process.pid, signal.SIGABRT)
            _ends(process, _GRACE_S)
    finally:
        # before the process is waited for, so that its number can't belong to anybody else
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    code = None
    with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a driver may not even be killed
        code = process.wait(_GRACE_S)
    died = f"it was killed after its limit of {limit_s:.0f} s" if hung else _words(code)
    return Ended(time.monotonic() - started, died, hung, _tail(log))


def _ends(process: "subprocess.Popen[bytes]", limit_s: float) -> bool:
    """Whether it ends within the limit; it is not waited for, so that its number stays its own."""
    deadline = time.monotonic() + limit_s
    while True:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)


def _words(code: int | None) -> str:
    if code is None:
        return "it could not be killed"
    if code >= 0:
        return f"its process ended with exit code {code}" if code else ""
    try:
        return f"its process died of {signal.Signals(-code).name}"
    except ValueError:
        return f"its process died of signal {-code}"


def _tail(log: Path) -> tuple[str, ...]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return tuple(line[:_LONGEST_LINE] for line in lines[-LAST_LINES:])
