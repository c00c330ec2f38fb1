"""`make gpu-check`: run whatever this machine's GPU and libraries can run; without a GPU, say why nothing ran.

Every check compares with numpy or with the eager model's golden outputs, or measures times by CUDA events. Each runs in
a process of its own with a time limit, and the JSON is written again after each. A check whose requirements are not met
is skipped, with the reason; one that fails, crashes or hangs fails the command, and the others still run.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.apart.child import ChildJob, run_apart
from resnetrt.benchmarks.apart.outcome import BAD, STATUSES, Outcome
from resnetrt.benchmarks.gpu.bundles import bundle_name, carried_cubins, find_carried, prepare
from resnetrt.benchmarks.gpu.catalog import OPEN_KERNELS, GpuCheck, catalog, choose
from resnetrt.benchmarks.gpu.needs import Needs, require_packages
from resnetrt.conditions import conditions
from resnetrt.errors import ResnetrtError, UsageError
from resnetrt.machine import read_gpus
from resnetrt.settings import changed_environment

SCHEMA_VERSION = 2
DEFAULT_OUT = Path("gpu-check.json")
_MINUTES = 9.5  # of ten borrowed ones
_LEAST_S = 5.0
_EXPORT_S = 240.0
Keep = Callable[[Outcome], None]


@dataclass
class GpuRun:
    """Runs checks one after the other in `folder`; `carried` holds bundles, None if there are none."""

    folder: Path
    carried: Path | None
    minutes: float

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + 60 * self.minutes
        self._exports: dict[str, Outcome] = {}
        self.needs = Needs(self.folder)
        self._count = 0

    def run(self, checks: Sequence[GpuCheck], keep: Keep) -> None:
        """Give each outcome to `keep` as soon as it is known, also those of exports, which come before what needs them.

        Nothing is exported for a check whose requirements are not met.
        """
        for check in checks:
            keep(self._skip(check) or self._run(check, keep))

    def why_not(self, check: GpuCheck) -> str:
        """Which requirement of the check this machine does not meet; empty if it meets them all."""
        cubins = self._carries_kernels(check)
        asked = (need for need in check.needs if not (need == "nvrtc" and cubins))
        return next((reason for need in asked if (reason := self.needs.why_not(need))), "")

    def _carries_kernels(self, check: GpuCheck) -> bool:
        """Whether the check's kernels were compiled beforehand, and for which GPU is seen when they are opened."""
        return check.given == (OPEN_KERNELS,) and bool(carried_cubins(self.carried))

    def _skip(self, check: GpuCheck) -> Outcome | None:
        reason = self.why_not(check)
        return Outcome(check.name, "skipped", reason) if reason else None

    def _run(self, check: GpuCheck, keep: Keep) -> Outcome:
        bundle = None
        if check.network is not None:
            source = find_carried(self.carried, check.network) or self._export(check.network, keep)
            if isinstance(source, Outcome):
                return Outcome(check.name, "skipped", f"{source.name}: {source.status}: {source.reason}")
            bundle = self.folder / f"{self._count}-{bundle_name(check.network)}"
            shutil.copytree(source, bundle)  # a check that is killed leaves nothing half done to the next
        given = (*check.given, str(self.carried)) if self._carries_kernels(check) else check.given
        outcome = self._apart(check.name, check.function, list(check.arguments), given, bundle, check.limit_s)
        if bundle is not None:
            shutil.rmtree(bundle, ignore_errors=True)
        return outcome

    def _export(self, network: str, keep: Keep) -> Path | Outcome:
        """The bundle of `network`, exported once; or the outcome of the export that failed."""
        path = self.folder / bundle_name(network)
        if network not in self._exports:
            function = "resnetrt.benchmarks.gpu.bundles:make_bundle"
            name = f"export {network}"
            self._exports[network] = self._apart(name, function, [str(path), network], (), None, _EXPORT_S)
            keep(self._exports[network])
        made = self._exports[network]
        return path if made.status == "passed" else made

    def _apart(
        self, name: str, function: str, arguments: list[Any], given: Sequence[str], bundle: Path | None, limit_s: float
    ) -> Outcome:
        left = self._deadline - time.monotonic()
        if left < _LEAST_S:
            return Outcome(name, "skipped", f"no time left of {self.minutes:g} minutes (--minutes)")
        self._count += 1
        out = str(self.folder / f"{self._count}.json")
        job = ChildJob(name, function, arguments, list(given), None if bundle is None else str(bundle), out)
        outcome = run_apart(job, min(limit_s, left))
        if outcome.status == "hung" and left < limit_s:
            reason = f"no time left of {self.minutes:g} minutes: killed after {left:.0f} s of at most {limit_s:g} s"
            return Outcome(name, "skipped", reason, {}, outcome.seconds, outcome.last_lines)
        return outcome


@dataclass
class GpuRecord:
    """The whole record, written to `out` after each outcome."""

    out: Path
    run: GpuRun

    def __post_init__(self) -> None:
        self._conditions = conditions() | {"gpu": asdict(read_gpus())}
        self.outcomes: list[Outcome] = []

    def keep(self, outcome: Outcome) -> None:
        """Print one outcome, and write the record with it."""
        self.outcomes.append(outcome)
        reason = f": {outcome.reason}" if outcome.reason else ""
        sys.stdout.write(f"{outcome.status:8}{outcome.name}{reason}\n")
        sys.stdout.flush()
        self.write(complete=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks ended in each way."""
        return {status: sum(item.status == status for item in self.outcomes) for status in STATUSES}

    def write(self, complete: bool) -> None:
        """Replace the file `out`; `complete` says that every check had its turn."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "complete": complete,
            "conditions": self._conditions,
            "minutes": self.run.minutes,
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "here": self.run.needs.to_json(),
            "counts": self.counts,
            "checks": [asdict(item) for item in self.outcomes],
        }
        text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
        write_file(self.out, text.encode())


def main(arguments: list[str], checks: Sequence[GpuCheck] | None = None) -> int:
    """Run the checks that were chosen; returns 1 if one failed, crashed or hung, 130 after Ctrl-C, else 0.

    4 if a package that they need is missing, 2 for wrong usage.
    """
    options = _parser().parse_args(arguments)
    try:
        require_packages()
        chosen = choose(catalog() if checks is None else checks, options.only)
        if options.bundle is not None and not options.bundle.is_dir():
            raise UsageError(f"--bundle: expected a folder that --prepare made, found {options.bundle}")
        if options.prepare is not None:
            return _prepare(options.prepare, chosen)
        seeing = _seeing(options.device)
    except ResnetrtError as error:
        sys.stderr.write(f"resnetrt: {error}\n")
        return error.exit_code
    with seeing, tempfile.TemporaryDirectory(prefix="resnetrt-gpu-check-") as folder:
        run = GpuRun(Path(folder), options.bundle, options.minutes)
        return _list(run, chosen) if options.list else _run_all(run, chosen, options.out)


def _seeing(device: str | None) -> AbstractContextManager[None]:
    """Let the processes of the checks see one GPU only, which then is their first, whatever library looks for it."""
    if device is None:
        return nullcontext()
    device = _within(os.environ.get("CUDA_VISIBLE_DEVICES"), device)
    order = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # in which nvidia-smi counts
    # the number in RESNETRT_DEVICE would be of all
    return changed_environment({"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": order, "RESNETRT_DEVICE": None})


def _within(mask: str | None, device: str) -> str:
    """The GPU as `CUDA_VISIBLE_DEVICES` names it: a number counts those that this process may use, which `mask` lists.

    Raises `UsageError` for one that the mask leaves out, as far as its names tell.
    """
    if mask is None:
        return device
    names = list(filter(None, map(str.strip, mask.split(","))))
    if device.isdecimal():
        within = names[int(device) : int(device) + 1]
    else:
        # a UUID may be one of the numbers, and either may be only the beginning of the other
        within = [device for name in names if name.isdecimal() or name.startswith(device) or device.startswith(name)]
    if not within:
        raise UsageError(
            f"--device: expected one of the GPUs of CUDA_VISIBLE_DEVICES={mask}, counted from 0, or a UUID among them, "
            f"found {device}"
        )
    return within[0]


def _prepare(folder: Path, checks: Sequence[GpuCheck]) -> int:
    """Make what the checks need in the folder: bundles, and kernels where there is a compiler for them."""
    from resnetrt.benchmarks.gpu.kernels import store_cubins  # with packages that the record does not need

    networks = dict.fromkeys(check.network for check in checks if check.network is not None)
    for path in [*prepare(folder, list(networks)), *store_cubins(folder)]:
        sys.stdout.write(f"{path}\n")
    return 0


def _list(run: GpuRun, checks: Sequence[GpuCheck]) -> int:
    for check in checks:
        reason = run.why_not(check)
        sys.stdout.write(f"{check.limit_s:4.0f} s  {check.name}{': would be skipped: ' + reason if reason else ''}\n")
    return 0


def _run_all(run: GpuRun, checks: Sequence[GpuCheck], out: Path) -> int:
    record = GpuRecord(out, run)
    record.write(complete=False)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the time of a borrowed machine is over
    try:
        run.run(checks, record.keep)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {out} has the checks so far\n")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    record.write(complete=True)
    told = ", ".join(f"{count} {status}" for status, count in record.counts.items())
    sys.stdout.write(f"{told}; {out}\n")
    return 1 if any(item.status in BAD for item in record.outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m resnetrt.benchmarks.gpu", description=(main.__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("out", type=Path, nargs="?", default=DEFAULT_OUT, help="default: %(default)s")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="checks with this in their name")
    parser.add_argument("--list", action="store_true", help="name the checks, and which would be skipped here and why")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="for all checks together; default: %(default)s")
    parser.add_argument("--device", metavar="GPU", help="number, UUID or MIG-..., as nvidia-smi -L lists them")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="what --prepare made: nothing is exported")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="make the bundles for --bundle, on any machine")
    return parser
