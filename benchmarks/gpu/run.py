"""`make gpu-check`: run whatever this machine's GPU and libraries can run; without a GPU, say why nothing ran.

Every check compares with numpy or with the eager model's golden outputs, or measures times by CUDA events. A check
whose requirements are not met is skipped, with the reason; a check that ran and failed fails the command.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.gpu.engines import engine_checks
from resnetrt.benchmarks.gpu.memory import memory_checks
from resnetrt.conditions import conditions
from resnetrt.errors import BackendMissing
from resnetrt.machine import read_gpus

DEFAULT_OUT = Path("gpu-check.json")
Check = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """A check that `passed`, `failed` or was `skipped`, with its measurements or the reason."""

    name: str
    status: str
    reason: str = ""
    measured: dict[str, Any] = field(default_factory=dict)


def run_check(name: str, check: Check) -> Outcome:
    """Run one check. A missing part of this machine skips it; any other exception is a failure."""
    try:
        return Outcome(name, "passed", measured=check())
    except (BackendMissing, ImportError) as error:
        return Outcome(name, "skipped", str(error))
    except Exception as error:
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")


def all_checks(folder: Path) -> Iterator[tuple[str, Check]]:
    """Every check by name; some checks make bundles in `folder`."""
    yield from memory_checks()
    yield from engine_checks(folder)


def run_all(folder: Path) -> dict[str, Any]:
    """The whole record: conditions, devices, outcomes and their counts."""
    outcomes = [run_check(name, check) for name, check in all_checks(folder)]
    counts = {status: sum(item.status == status for item in outcomes) for status in ("passed", "failed", "skipped")}
    return {
        "schema_version": 1,
        "conditions": conditions() | {"gpu": asdict(read_gpus())},
        "counts": counts,
        "checks": [asdict(item) for item in outcomes],
    }


def main(arguments: list[str]) -> int:
    """Run everything and write the JSON to the first argument; returns 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser("python -m resnetrt.benchmarks.gpu.run", description=main.__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=DEFAULT_OUT, help="default: %(default)s")
    out: Path = parser.parse_args(arguments).out
    with tempfile.TemporaryDirectory(prefix="resnetrt-gpu-check-") as folder:
        record = run_all(Path(folder))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    for item in record["checks"]:
        sys.stdout.write(f"{item['status']:8}{item['name']}{': ' + item['reason'] if item['reason'] else ''}\n")
    counts = record["counts"]
    sys.stdout.write(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped; {out}\n")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
