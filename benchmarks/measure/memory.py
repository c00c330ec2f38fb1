"""Memory and start-up time of one engine, in its own process that loads nothing else.

python -m resnetrt.benchmarks.measure.memory BUNDLE ENGINE THREADS
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault

_TIMEOUT_S = 120


class ProcessRow(TypedDict):
    """What a process that loads one engine says of itself."""

    import_ms: float
    load_and_selftest_ms: float
    first_inference_ms: float
    start_to_first_ms: float
    peak_rss_bytes: float


class MemoryRow(ProcessRow):
    """Medians over `repeats` processes, and the size of the engine's file."""

    network: str
    engine: str
    size_bytes: int
    repeats: int


def measure_memory(bundle: Bundle, engine: str, threads: int, repeats: int = 3) -> MemoryRow:
    """Peak RSS and times of a fresh process, medians over `repeats`; sizes of the engine's file.

    `start_to_first_ms` is the waiting time on an edge device: from the start of the process, through import, load and
    self-test, to the first outputs. Raises `EnvironmentFault` with the last line of a failed process.
    """
    runs = [_run(bundle.path, engine, threads) for _ in range(repeats)]
    record = bundle.manifest.files[bundle.manifest.engines[engine].file]
    return {
        "network": bundle.manifest.name,
        "engine": engine,
        "size_bytes": record.size_bytes,
        "repeats": repeats,
        "import_ms": statistics.median(run["import_ms"] for run in runs),
        "load_and_selftest_ms": statistics.median(run["load_and_selftest_ms"] for run in runs),
        "first_inference_ms": statistics.median(run["first_inference_ms"] for run in runs),
        "start_to_first_ms": statistics.median(run["start_to_first_ms"] for run in runs),
        "peak_rss_bytes": statistics.median(run["peak_rss_bytes"] for run in runs),
    }


def _run(path: Path, engine: str, threads: int) -> ProcessRow:
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "resnetrt.benchmarks.measure.memory",
        str(path),
        engine,
        str(threads),
        str(started),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentFault(f"engine {engine} of {path}: its process ended with {done.returncode}: {last}")
    answer: ProcessRow = json.loads(done.stdout.splitlines()[-1])
    return answer


def report(path: Path, engine: str, threads: int, started: float) -> ProcessRow:
    """Load and infer once in this process; `started` is the monotonic time of the process's start."""
    import numpy as np

    imported_from = time.monotonic()
    from resnetrt.runtime import load

    loading_from = time.monotonic()
    with load(path, engine, threads=threads) as session:
        loaded = time.monotonic()
        shape = [axis or 1 for axis in session.inputs[0].shape]
        session.infer(np.zeros(shape, session.inputs[0].dtype))
        first = time.monotonic()
    return {
        "import_ms": 1e3 * (loading_from - imported_from),
        "load_and_selftest_ms": 1e3 * (loaded - loading_from),
        "first_inference_ms": 1e3 * (first - loaded),
        "start_to_first_ms": 1e3 * (first - started),
        "peak_rss_bytes": _peak_rss_bytes(),
    }


def _peak_rss_bytes() -> float:
    """VmHWM: unlike `ru_maxrss` it does not start from the parent's size after a fork."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    answer = report(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # skip what a runtime does at interpreter exit: it is not measured here
