"""The process of one check: runs it, and writes what came of it to a file.

python -X faulthandler -m resnetrt.benchmarks.apart.child JOB, where JOB is JSON with the fields of `ChildJob`.
"""

import json
import pkgutil
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.apart.isolated import Ended, run_isolated
from resnetrt.benchmarks.apart.outcome import Outcome
from resnetrt.errors import BackendMissing

Measure = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class ChildJob:
    """What the process is to do, and where its outcome goes: to the file `out`.

    The `function`, as `module:name`, gets what `given` makes, which is another function and its arguments, if it is not
    empty; then the path `bundle`, if there is one; then `arguments`. It returns measurements.
    """

    name: str
    function: str
    arguments: list[Any]
    given: list[str]
    bundle: str | None
    out: str


def run_apart(job: ChildJob, limit_s: float) -> Outcome:
    """Run the job in a process of its own. Whatever that does, there is an outcome."""
    out = Path(job.out)
    out.unlink(missing_ok=True)
    command = [sys.executable, "-X", "faulthandler", "-m", __name__, json.dumps(asdict(job))]
    ended = run_isolated(command, limit_s, out.with_suffix(".log"))
    return _outcome(job.name, ended, json.loads(out.read_text()) if out.exists() else None)


def _outcome(name: str, ended: Ended, answer: dict[str, Any] | None) -> Outcome:
    """A check that passed and whose process died afterwards, as at the end of the interpreter, did not pass."""
    if answer is None:
        status = "hung" if ended.hung else "crashed"
        reason = ended.died or "its process ended with exit code 0 before the check was done"
        return Outcome(name, status, reason, {}, ended.seconds, ended.last_lines)
    if ended.died and answer["status"] != "failed":
        reason = f"it {answer['status']}, then {ended.died}"
        status = "hung" if ended.hung else "crashed"
        return Outcome(name, status, reason, answer["measured"], ended.seconds, ended.last_lines)
    lines = ended.last_lines if answer["status"] == "failed" else ()
    return Outcome(name, answer["status"], answer["reason"], answer["measured"], ended.seconds, lines)


def judge(name: str, check: Callable[[], dict[str, Any]]) -> Outcome:
    """Run one check here. A missing part of this machine skips it; any other exception is a failure."""
    try:
        return Outcome(name, "passed", measured=check())
    except (BackendMissing, ImportError) as error:
        return Outcome(name, "skipped", str(error))
    except Exception as error:
        traceback.print_exc()  # its last lines go into the record
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")


def _work(job: ChildJob) -> dict[str, Any]:
    function: Measure = pkgutil.resolve_name(job.function)
    first: list[Any] = []
    if job.given:
        opener, *names = job.given
        first.append(pkgutil.resolve_name(opener)(*names))
    if job.bundle is not None:
        first.append(Path(job.bundle))
    return function(*first, *job.arguments)


def main(arguments: list[str]) -> int:
    """Do the job; 0 also for a check that fails, since its outcome says so."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of a process with a GPU may fill the disk
    job = ChildJob(**json.loads(arguments[0]))
    outcome = judge(job.name, lambda: _work(job))
    write_file(Path(job.out), json.dumps(asdict(outcome), allow_nan=False).encode())
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
