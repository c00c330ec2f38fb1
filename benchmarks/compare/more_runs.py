"""Further runs for the regression check, each in a process of its own; old and new in turn where both can run here.

Engines that are loaded again lie elsewhere in memory and meet another moment of the machine, which is what makes runs
differ. A run that something else disturbed does not count: it is kept, and its group is measured again, once.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.compare.regression import Group, Regression, Run, compare_runs, runs_of, slim
from resnetrt.benchmarks.compare.same_conditions import differences
from resnetrt.benchmarks.depth.plan import LabOptions, Subject
from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault, UsageError
from resnetrt.progress import Say

RUNS = 5  # a side: at offsets of 1 % from run to run 10 % is found in 100 of 100 cases, of 2 % in about 80
_RUN = "resnetrt.benchmarks.compare.one_run"  # of the other side, whatever version that is
Stored = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A bundle's folder and which of its engines; None: one of `--depths`, made there, and all that is wanted."""

    bundle: Path | None
    engines: Sequence[str] | None = None


@dataclass(frozen=True)
class Side:
    """What is timed on one side: networks by name; `precisions`, `backends`, `work` where one leaves that open.

    `python` is the interpreter of the environment, `renamed` gives networks the names they have on the other side,
    `content` is what the networks must hold (`Subject.content`); None where that is open.
    """

    networks: Mapping[str, Network]
    options: LabOptions
    precisions: Sequence[str]
    backends: Sequence[str]
    work: Path
    python: str = sys.executable
    renamed: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Any] | None = None

    def run(self, groups: Mapping[Group, float | None]) -> Stored:
        """Time `groups` (names of the other side) in a new process, each for so many seconds; None is no limit.

        Raises `EnvironmentFault` with the last line of a process that fails, or if other files were timed.
        """
        found = self._call(groups, self.options.rounds)
        self.check(found)
        rows = [row | {"network": self._name(row["network"])} for row in slim(found["results"])]
        noise = [row | {"network": self._name(row["network"])} for row in found["noise"]]
        return {"results": rows, "noise": noise, "conditions": found["conditions"]}

    def prepare(self) -> dict[str, Any]:
        """Make what is not there yet, time nothing: `conditions` there and the networks' `content`."""
        groups = {(self._name(name), batch): None for name in self.networks for batch in self.options.batches}
        return self._call(groups, rounds=0)

    def check(self, found: Mapping[str, Any]) -> None:
        """Raise `EnvironmentFault` if a process of this side opened other files than it must."""
        for name, content in found["content"].items():
            if self.content is not None and content != self.content.get(name):
                raise EnvironmentFault(f"bench: {name} changed while it was measured; start again")

    def _name(self, network: str) -> str:
        return self.renamed.get(network, network)

    def _call(self, groups: Mapping[Group, float | None], rounds: int) -> dict[str, Any]:
        networks = [
            {
                "name": name,
                "bundle": network.bundle and str(network.bundle.resolve()),
                "engines": network.engines and list(network.engines),
                "batches": batches,
                "seconds": [groups[self._name(name), size] for size in batches],
            }
            for name, network in self.networks.items()
            if (batches := [size for size in self.options.batches if (self._name(name), size) in groups])
        ]
        request = {
            "networks": networks,
            "precisions": list(self.precisions),
            "backends": list(self.backends),
            "work": str(self.work),
            "peers": self.options.peers and str(self.options.peers),
            "threads": self.options.threads,
            "rounds": rounds,
        }
        with tempfile.TemporaryDirectory(prefix="resnetrt-run-") as folder:
            asked, rows = Path(folder, "request.json"), Path(folder, "rows.json")
            asked.write_text(json.dumps(request))
            # -P: this folder may hold modules whose names others also use
            command = [self.python, "-P", "-m", _RUN, str(asked), str(rows)]
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
            found: dict[str, Any] = json.loads(rows.read_text())
            return found


@dataclass
class Runs:
    """The runs so far of both sides, and how to get more: `old` is None where that side is stored or not there.

    `there` are the conditions of `old`. `record` is the `bench.json` of the run in this process; what is measured goes
    into its `runs` and `other_runs`.
    """

    record: dict[str, Any]
    new: Side
    old: Side | None
    say: Say
    there: Mapping[str, Any] | None = None

    @property
    def groups(self) -> dict[Group, float | None]:
        """All that the run in this process measured, and for how many seconds to measure it again.

        Where there is a budget as long as it took, and half as long again: a run that only lacks rounds is lost.
        """
        blocks = {(block["network"], block["batch"]): 1.5 * block["seconds"] for block in self.record["noise"]}
        limited = self.new.options.budget_s is not None
        found = dict.fromkeys((row["network"], row["batch"]) for row in self.record["results"])
        return {group: blocks.get(group) if limited else None for group in found}

    def new_runs(self) -> list[Run]:
        """All of this side; beside another in turn without the run in this process, which had no partner."""
        return runs_of(self.record)[0 if self.old is None else 1 :]

    def other_runs(self) -> list[Run]:
        """Those of `old`."""
        return [run["results"] for run in self.record.get("other_runs", ())]

    def measure(self, count: int, groups: Iterable[Group]) -> None:
        """`count` further runs of `groups`, of each side in turn: old new, new old, old new, ..."""
        known = self.groups
        wanted = {group: known[group] for group in groups}
        for index in range(count if wanted else 0):
            sides = [(self.new, "runs")] if self.old is None else [(self.old, "other_runs"), (self.new, "runs")]
            for side, place in sides[:: -1 if index % 2 else 1]:
                run = side.run(wanted)
                self.record.setdefault(place, []).append(run)
                self.say(f"run {index + 1} of {count}{' (other side)' * (place == 'other_runs')}{_noise(run)}")

    def measure_disturbed(self, needed: int) -> None:
        """Groups that have fewer than `needed` quiet runs get as many again as they lack."""
        sides = [self.new_runs()] + ([] if self.old is None else [self.other_runs()])
        quiet = [Counter(group for run in runs for group in _quiet(run)) for runs in sides]
        lacking = {group: needed - min(found[group] for found in quiet) for group in self.groups}
        lacking = {group: count for group, count in lacking.items() if count > 0}
        if lacking:
            self.say(f"disturbed, measured again: {_list(lacking)}")
            self.measure(max(lacking.values()), lacking)


def compare_with_stored(stored: Sequence[Run], runs: Runs, count: int, limit_percent: float) -> Regression:
    """`count` runs of this side, the first of which is measured, against those of an earlier one."""
    runs.measure(count - 1, runs.groups)
    runs.measure_disturbed(count)
    return _with_second_look(lambda: compare_runs(stored, runs.new_runs(), limit_percent), runs, count)


def compare_in_turn(runs: Runs, count: int, limit_percent: float) -> Regression:
    """`count` runs of each side in turn. By time where the sides have another torch: then eager is another too."""
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
    """Twice `count` runs of this side: every other one against the rest. Nothing changed, so nothing may be found."""
    runs.measure(2 * count - 1, runs.groups)
    runs.measure_disturbed(2 * count)
    found = runs.new_runs()
    return compare_runs(found[::2], found[1::2], limit_percent)


def _with_second_look(compare: Callable[[], Regression], runs: Runs, count: int) -> Regression:
    """Undecided groups get `count` more runs, once: each look has half of the error."""
    found = compare()
    runs.record["regression"] = found.to_json()  # should the rest be interrupted
    if found.verdict == "INCONCLUSIVE" and found.unsure:
        runs.say(f"undecided, measured again: {_list(found.unsure)}")
        runs.measure(count, found.unsure)
        found = compare()
    return found


def this_side(
    subjects: Sequence[Subject], options: LabOptions, precisions: Sequence[str], backends: Sequence[str], work: Path
) -> Side:
    """The engines of `subjects`, by this process's Python."""
    timed = {subject.name: replace(subject, frame_engines=()) for subject in subjects}
    networks = {name: Network(subject.bundle.path, subject.engines) for name, subject in timed.items()}
    content = {name: subject.content() for name, subject in timed.items()}
    return Side(networks, options, precisions, backends, work, content=content)


def python_of(other: Path) -> Path | None:
    """The Python that `--against OTHER` names, by itself or by a checkout with a `.venv`; None for a bundle.

    Raises `UsageError` for anything else.
    """
    if (other / "manifest.json").is_file():
        return None
    python = other / ".venv" / "bin" / "python"
    found = other if other.is_file() else python if python.is_file() else None
    if found is None:
        raise UsageError(
            f"--against {other}: expected a bundle, the python of another environment or a checkout with .venv/bin/"
            "python, found none of them"
        )
    return found.absolute()  # not resolved: a link to it is what makes an environment


def other_side(other: Path, new: Side, made: Collection[str] = ()) -> Side:
    """What `--against OTHER` names (see `python_of`); networks in `made` are made there by its own code.

    Raises `UsageError` for what it can't be, and for a bundle where the new side is not one bundle.
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


def _noise(run: Stored) -> str:
    marked = [f"{block['network']} batch {block['batch']}" for block in run["noise"] if block["disturbed"]]
    return f": DISTURBED {', '.join(marked)}" if marked else ""


def _list(groups: Iterable[Group]) -> str:
    return ", ".join(f"{name} batch {batch}" for name, batch in sorted(groups))
