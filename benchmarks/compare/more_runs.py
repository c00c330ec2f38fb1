"""Further runs for the regression check, each in its own process; old and new alternate if both can run here.

Runs differ because an engine that is loaded again lies elsewhere in memory, and because the machine changes over time.
A disturbed run does not count: it is kept in the record, and its group is measured once more.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from resnetrt.benchmarks.compare.one_run import AskedNetwork, RunRecord, RunRequest
from resnetrt.benchmarks.compare.regression import Group, Regression, Run, compare_runs, runs_of, slim
from resnetrt.benchmarks.compare.same_conditions import differences
from resnetrt.benchmarks.depth.bench_record import BenchRecord, ComparedRow, Conditions, Content, StoredRun
from resnetrt.benchmarks.depth.plan import LabOptions, Subject
from resnetrt.benchmarks.measure.noise import NoiseRow
from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.progress import Say

RUNS = 5  # per side: with run offsets of 1 % a slowdown of 10 % is found in 100 of 100 cases, with 2 % in about 80
_RUN = "resnetrt.benchmarks.compare.one_run"  # of the other side, whatever its version
# modules in the current folder must not shadow others of the same name; Python 3.10 has no option for that
_CODE = f"import sys; sys.path[:] = filter(None, sys.path); from {_RUN} import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Network:
    """A bundle's folder and its engines to time; None for a network of `--depths`, and for all wanted engines."""

    bundle: Path | None
    engines: Sequence[str] | None = None


@dataclass(frozen=True)
class Side:
    """What is timed on one side: networks by name; `precisions`, `backends` and `work` for networks that don't say.

    `python` is the environment's interpreter. `renamed` maps networks to their names on the other side. `content` is
    what the networks must hold (`Subject.content`); None if that is open.
    """

    networks: Mapping[str, Network]
    options: LabOptions
    precisions: Sequence[str]
    backends: Sequence[str]
    work: Path
    python: str = sys.executable
    renamed: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Content] | None = None

    def run(self, groups: Mapping[Group, float | None]) -> StoredRun:
        """Time `groups` (with the other side's names) in a new process, each for the given seconds; None is no limit.

        Raises `EnvironmentFault` with the last line of a failed process, or if the wrong files were timed.
        """
        record = self._call(groups, self.options.rounds)
        self.check(record)
        rows: list[ComparedRow] = [{**row, "network": self._name(row["network"])} for row in slim(record["results"])]
        noise: list[NoiseRow] = [{**row, "network": self._name(row["network"])} for row in record["noise"]]
        return {"results": rows, "noise": noise, "conditions": record["conditions"]}

    def prepare(self) -> RunRecord:
        """Make what is missing, without timing; returns the `conditions` there and the networks' `content`."""
        groups = {(self._name(name), batch): None for name in self.networks for batch in self.options.batches}
        return self._call(groups, rounds=0)

    def check(self, record: RunRecord) -> None:
        """Raise `EnvironmentFault` if a process of this side opened the wrong files."""
        for name, content in record["content"].items():
            if self.content is not None and content != self.content.get(name):
                raise EnvironmentFault(f"bench: {name} changed while it was measured; start again")

    def _name(self, network: str) -> str:
        return self.renamed.get(network, network)

    def _call(self, groups: Mapping[Group, float | None], rounds: int) -> RunRecord:
        networks: list[AskedNetwork] = [
            {
                "name": name,
                "bundle": None if network.bundle is None else str(network.bundle.resolve()),
                "engines": None if network.engines is None else list(network.engines),
                "batches": batches,
                "seconds": [groups[self._name(name), size] for size in batches],
            }
            for name, network in self.networks.items()
            if (batches := [size for size in self.options.batches if (self._name(name), size) in groups])
        ]
        request: RunRequest = {
            "networks": networks,
            "precisions": list(self.precisions),
            "backends": list(self.backends),
            "work": str(self.work),
            "peers": None if self.options.peers is None else str(self.options.peers),
            "threads": self.options.threads,
            "rounds": rounds,
        }
        with tempfile.TemporaryDirectory(prefix="resnetrt-run-") as folder:
            asked, rows = Path(folder, "request.json"), Path(folder, "rows.json")
            asked.write_text(json.dumps(request))
            command = [self.python, "-c", _CODE, str(asked), str(rows)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                raise UsageError(f"--against {self.python}: expected a Python, found {error.strerror}") from error
            if done.returncode or not rows.exists():
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                if "No module named 'resnetrt.benchmarks." in last:
                    raise UsageError(
                        f"--against {self.python}: expected a resnetrt with {_RUN}, found an older one; "
                        "compare with runs that it stored: --compare OLD.json"
                    )
                raise EnvironmentFault(f"bench: a run by {self.python} ended with {done.returncode}: {last}")
            record: RunRecord = json.loads(rows.read_text())
            return record


@dataclass
class Runs:
    """The runs of both sides so far, and how to get more; `old` is None if that side is stored or absent.

    `there` are the conditions of `old`. `record` is the `bench.json` of the run in this process; new runs go into its
    `runs` and `other_runs`.
    """

    record: BenchRecord
    new: Side
    old: Side | None
    say: Say
    there: Conditions | None = None

    @property
    def groups(self) -> dict[Group, float | None]:
        """All groups that the run in this process measured, with the seconds to spend on each again.

        With a budget that is 1.5 times as long as the first time, because a run with too few rounds is lost.
        """
        blocks = {(block["network"], block["batch"]): 1.5 * block["seconds"] for block in self.record["noise"]}
        limited = self.new.options.budget_s is not None
        names = dict.fromkeys((row["network"], row["batch"]) for row in self.record["results"])
        return {group: blocks.get(group) if limited else None for group in names}

    def new_runs(self) -> list[Run]:
        """All runs of this side; if both sides alternate, without the run in this process, which had no partner."""
        return runs_of(self.record)[0 if self.old is None else 1 :]

    def other_runs(self) -> list[Run]:
        """All runs of `old`."""
        return [run["results"] for run in self.record.get("other_runs", ())]

    def measure(self, count: int, groups: Iterable[Group]) -> None:
        """Make `count` further runs of `groups` on each side, alternating: old new, new old, old new, ..."""
        known = self.groups
        wanted = {group: known[group] for group in groups}
        for index in range(count if wanted else 0):
            sides = [self.new] if self.old is None else [self.old, self.new]
            for side in sides[:: -1 if index % 2 else 1]:
                run = side.run(wanted)
                kept = (
                    self.record.setdefault("runs", []) if side is self.new else self.record.setdefault("other_runs", [])
                )
                kept.append(run)
                self.say(f"run {index + 1} of {count}{' (other side)' * (side is not self.new)}{_noise(run)}")

    def measure_disturbed(self, needed: int) -> None:
        """Groups with fewer than `needed` quiet runs get as many further runs as they lack."""
        sides = [self.new_runs()] + ([] if self.old is None else [self.other_runs()])
        quiet = [Counter(group for run in runs for group in _quiet(run)) for runs in sides]
        lacking = {group: needed - min(counts[group] for counts in quiet) for group in self.groups}
        lacking = {group: count for group, count in lacking.items() if count > 0}
        if lacking:
            self.say(f"disturbed, measured again: {_list(lacking)}")
            self.measure(max(lacking.values()), lacking)


def compare_with_stored(stored: Sequence[Run], runs: Runs, count: int, limit_percent: float) -> Regression:
    """Compare `count` runs of this side, of which the first is measured already, with the runs of an earlier record."""
    runs.measure(count - 1, runs.groups)
    runs.measure_disturbed(count)
    return _with_second_look(lambda: compare_runs(stored, runs.new_runs(), limit_percent), runs, count)


def compare_in_turn(runs: Runs, count: int, limit_percent: float) -> Regression:
    """Compare `count` alternating runs of each side; by time if the sides' torch, and so their eager, differs."""
    here, there = runs.record["conditions"], runs.there
    assert there is not None
    runs.record["other_conditions"] = there
    for line in differences(there, here):
        runs.say(f"the other side differs: {line}")
    same = here["versions"].get("torch") == there["versions"].get("torch")
    runs.measure(count, runs.groups)
    runs.measure_disturbed(count)
    return _with_second_look(
        lambda: compare_runs(runs.other_runs(), runs.new_runs(), limit_percent, baseline=same), runs, count
    )


def check_itself(runs: Runs, count: int, limit_percent: float) -> Regression:
    """Compare every other of `2 * count` runs of this side with the rest: nothing changed, so nothing may be found."""
    runs.measure(2 * count - 1, runs.groups)
    runs.measure_disturbed(2 * count)
    taken = runs.new_runs()
    return compare_runs(taken[::2], taken[1::2], limit_percent)


def _with_second_look(compare: Callable[[], Regression], runs: Runs, count: int) -> Regression:
    """Undecided groups get `count` more runs, once; each of the two looks uses half of the error probability."""
    regression = compare()
    runs.record["regression"] = regression.to_json()  # in case the rest is interrupted
    if regression.verdict == "INCONCLUSIVE" and regression.unsure:
        runs.say(f"undecided, measured again: {_list(regression.unsure)}")
        runs.measure(count, regression.unsure)
        regression = compare()
    return regression


def this_side(
    subjects: Sequence[Subject], options: LabOptions, precisions: Sequence[str], backends: Sequence[str], work: Path
) -> Side:
    """The engines of `subjects`, by this process's Python."""
    timed = {subject.name: replace(subject, frame_engines=()) for subject in subjects}
    networks = {name: Network(subject.bundle.path, subject.engines) for name, subject in timed.items()}
    content = {name: subject.content() for name, subject in timed.items()}
    return Side(networks, options, precisions, backends, work, content=content)


def python_of(other: Path) -> Path | None:
    """The Python that `--against OTHER` names, directly or as a checkout with a `.venv`; None for a bundle.

    Raises `UsageError` for anything else.
    """
    if (other / "manifest.json").is_file():
        return None
    python = other / ".venv" / "bin" / "python"
    python_file = other if other.is_file() else python if python.is_file() else None
    if python_file is None:
        raise UsageError(
            f"--against {other}: expected a bundle, the python of another environment or a checkout with .venv/bin/"
            "python, found none of them"
        )
    return python_file.absolute()  # not resolved: the link is what makes it an environment


def other_side(other: Path, new: Side, made: Collection[str] = ()) -> Side:
    """The side that `--against OTHER` names (see `python_of`); the networks in `made` are made there by its own code.

    Raises `UsageError` for any other OTHER, and for a bundle if the new side is not exactly one bundle.
    """
    python = python_of(other)
    if python is None:
        if len(new.networks) != 1 or made:
            raise UsageError(f"--against {other}: expected one BUNDLE to compare with it, found others")
        ours, name = next(iter(new.networks)), Bundle.open(other).manifest.name
        return replace(new, networks={name: Network(other)}, renamed={name: ours}, content=None)
    networks = {name: Network(None) if name in made else network for name, network in new.networks.items()}
    return replace(new, networks=networks, python=str(python), content=None)


def _quiet(run: Run) -> set[Group]:
    return {(row["network"], row["batch"]) for row in run if not row.get("disturbed")}


def _noise(run: StoredRun) -> str:
    marked = [f"{block['network']} batch {block['batch']}" for block in run["noise"] if block["disturbed"]]
    return f": DISTURBED {', '.join(marked)}" if marked else ""


def _list(groups: Iterable[Group]) -> str:
    return ", ".join(f"{name} batch {batch}" for name, batch in sorted(groups))
