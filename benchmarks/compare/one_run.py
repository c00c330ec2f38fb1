"""One run of latencies in a process of its own: the unit of the regression check.

    PYTHON -m resnetrt.benchmarks.compare.one_run REQUEST.json ROWS.json

Started by `more_runs`, perhaps with the Python of another environment, which then runs *its* copy of this module. So
the names of this module and of `main` and the content of the two files are a protocol between versions: keys may be
added, but none may change.
"""

import json
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from resnetrt.benchmarks.depth.bench_record import ComparedRow, Conditions, Content
from resnetrt.benchmarks.depth.findings import Findings
from resnetrt.benchmarks.depth.lab import Lab
from resnetrt.benchmarks.depth.plan import LabOptions, Subject, bundle_subject, lab_conditions, request_of
from resnetrt.benchmarks.depth.shares import Shares
from resnetrt.benchmarks.measure.noise import NoiseRow
from resnetrt.bundle import Bundle
from resnetrt.errors import ResnetrtError


class AskedNetwork(TypedDict):
    """One network to time: of a bundle, or by its name; each batch size for so many seconds, None without a limit."""

    name: str
    bundle: str | None
    engines: list[str] | None
    batches: list[int]
    seconds: list[float | None]


class RunRequest(TypedDict):
    """The content of REQUEST.json."""

    networks: list[AskedNetwork]
    precisions: list[str]
    backends: list[str]
    work: str
    peers: str | None
    threads: int
    rounds: int


class RunRecord(TypedDict):
    """The content of ROWS.json; `content` says what the networks hold, as `Subject.content`."""

    conditions: Conditions
    content: dict[str, Content]
    results: list[ComparedRow]
    noise: list[NoiseRow]
    left_out: list[str]


def one_run(request: RunRequest) -> RunRecord:
    """Time the networks of `request` (see `more_runs.Side`) and return rows, noise, conditions and content."""
    peers = None if request["peers"] is None else Path(request["peers"])
    subjects = [(_subject(network, request), network["batches"], network["seconds"]) for network in request["networks"]]
    findings, options = Findings(), LabOptions()
    for subject, batches, seconds in subjects if request["rounds"] else ():
        options = LabOptions(
            batches, request["threads"], request["rounds"], None, peers, end_to_end=False, memory=False
        )
        Lab(options, findings, _Told(seconds), _say, lambda: None).measure(subject)
    return {
        "conditions": lab_conditions(options),
        "content": request_of([subject for subject, *_ in subjects], options)["content"],
        "results": list(findings.results),
        "noise": findings.noise,
        "left_out": findings.left_out,
    }


class _Told(Shares):
    """The given seconds for each group, however long loading takes; None is no limit."""

    def __init__(self, seconds: Sequence[float | None]) -> None:
        super().__init__(None)
        self._seconds = deque(seconds)

    def next(self) -> float | None:
        return self._seconds.popleft()


def _subject(network: AskedNetwork, request: RunRequest) -> Subject:
    precisions, backends = request["precisions"], request["backends"]
    if network["bundle"] is None:
        from resnetrt.benchmarks.depth.bundles import lab_bundle  # with torch, which devices lack

        return lab_bundle(network["name"], precisions, backends, Path(request["work"]), _say)
    bundle = Bundle.open(Path(network["bundle"]))
    return Subject(bundle, network["engines"]) if network["engines"] else bundle_subject(bundle, precisions, backends)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(words: list[str]) -> int:
    """Read the request and write the rows; an error is one line on stderr."""
    request, rows = map(Path, words)
    try:
        rows.write_text(json.dumps(one_run(json.loads(request.read_text()))))
    except ResnetrtError as error:
        _say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
