"""What else the machine did during a measurement: other processes, stolen time, frequency, heat, throttling.

A disturbed run is marked, never hidden. Everything is read from /proc and /sys; missing values are None.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from resnetrt.nvml import GpuState
from resnetrt.thermals import Clock, Thermals, read_thermals

OTHERS_LIMIT = 0.04  # share of the usable cores' time; above it, medians of short calls begin to move
STEAL_LIMIT = 0.01
FREQUENCY_LIMIT = 0.10  # largest drop of the mean frequency from beginning to end
_SHOWN = 3
_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of proc(5)
_STEAL = 7


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment, times in seconds; `processes` maps pid to name and CPU time."""

    wall_s: float
    busy_s: float
    steal_s: float
    own_s: float
    load1: float | None
    mhz: float | None
    throttles: int | None
    processes: dict[int, tuple[str, float]] = field(default_factory=dict)
    thermals: Thermals = field(default_factory=Thermals)


class NoiseNumbers(TypedDict):
    """The fields of a `Noise` in a record."""

    seconds: float
    others_share: float | None
    steal_share: float | None
    load1: float | None
    mhz: float | None
    throttled: bool | None
    temperatures_c: dict[str, float]
    clocks: dict[str, dict[str, float | str]]
    gpus: list[dict[str, object]]
    others: list[str]
    reasons: list[str]
    disturbed: bool


class NoiseRow(NoiseNumbers):
    """What else the machine did while one group of cells was timed."""

    network: str
    batch: int | None


@dataclass
class Noise:
    """Shares of the cores' time while watched. `reasons` says why a run counts as disturbed, if it does.

    `temperatures_c` by zone, `clocks` by domain and `gpus` (see `nvml.GpuState`) are those of the end.
    """

    seconds: float = 0.0
    others_share: float | None = None
    steal_share: float | None = None
    load1: float | None = None
    mhz: float | None = None
    throttled: bool | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    gpus: list[GpuState] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def disturbed(self) -> bool:
        """Whether anything other than the measurement may have changed its numbers."""
        return bool(self.reasons)

    def to_json(self) -> NoiseNumbers:
        """The record of one watched block."""
        return {
            "seconds": self.seconds,
            "others_share": self.others_share,
            "steal_share": self.steal_share,
            "load1": self.load1,
            "mhz": self.mhz,
            "throttled": self.throttled,
            "temperatures_c": self.temperatures_c,
            "clocks": {name: asdict(clock) for name, clock in self.clocks.items()},
            "gpus": [asdict(gpu) for gpu in self.gpus],
            "others": self.others,
            "reasons": self.reasons,
            "disturbed": self.disturbed,
        }


@contextmanager
def watch(gpu: str = "") -> Iterator[Noise]:
    """Watch the machine during the block; the yielded record is filled when it ends.

    Of several GPUs that of the UUID `gpu` is watched; all if it is empty.
    """
    noise, before = Noise(), snapshot(gpu)
    try:
        yield noise
    finally:
        judged = judge(before, snapshot(gpu), os.cpu_count() or 1)
        vars(noise).update(vars(judged))


def judge(before: Snapshot, after: Snapshot, cores: int) -> Noise:
    """What happened between two snapshots of a machine with `cores` cores."""
    seconds = max(after.wall_s - before.wall_s, 1e-9)
    own = after.own_s - before.own_s
    others = max(0.0, after.busy_s - before.busy_s - own) / (seconds * cores)
    steal = (after.steal_s - before.steal_s) / (seconds * cores)
    counted = None
    if before.throttles is not None and after.throttles is not None:
        counted = after.throttles > before.throttles
    slowed = _slowed(before.thermals, after.thermals)
    throttled = None if counted is None and slowed is None else bool(counted or slowed)
    names = _busiest(before, after, seconds * cores)
    reasons = []
    if others > OTHERS_LIMIT:
        who = f" ({', '.join(names)})" if names else ""
        reasons.append(f"other processes took {others:.0%} of the cores{who}")
    if steal > STEAL_LIMIT:
        reasons.append(f"the hypervisor took {steal:.0%} of the cores")
    if before.mhz and after.mhz and after.mhz < before.mhz * (1 - FREQUENCY_LIMIT):
        reasons.append(f"the cores' frequency fell from {before.mhz:.0f} to {after.mhz:.0f} MHz")
    if counted:
        reasons.append("the processor throttled itself")
    if slowed:
        reasons.append(f"the hardware was slowed by {', '.join(slowed)}{_hottest(after.thermals)}")
    reasons += _lowered(before.thermals, after.thermals)
    return Noise(
        seconds,
        others,
        steal,
        after.load1,
        after.mhz,
        throttled,
        after.thermals.temperatures_c,
        dict(after.thermals.clocks),
        list(after.thermals.gpus),
        names,
        reasons,
    )


def _slowed(before: Thermals, after: Thermals) -> list[str] | None:
    """What slowed the hardware at the beginning or at the end; None if the machine does not say."""
    told = [readings.throttled_by for readings in (before, after) if readings.throttled_by is not None]
    return sorted({name for names in told for name in names}) if told else None


def _hottest(thermals: Thermals) -> str:
    if not thermals.temperatures_c:
        return ""
    name, value = max(thermals.temperatures_c.items(), key=lambda item: item[1])
    return f" ({name} at {value:.0f} °C)"


def _lowered(before: Thermals, after: Thermals) -> Iterator[str]:
    """A limit fell: a hot device, or another power mode. Clocks themselves follow the load, so they tell nothing."""
    for name in before.clocks.keys() & after.clocks.keys():
        old, new = before.clocks[name].max_mhz, after.clocks[name].max_mhz
        if new < old:
            yield f"the limit of the clock {name} fell from {old:.0f} to {new:.0f} MHz"


def snapshot(gpu: str = "") -> Snapshot:
    """Read all counters now; `gpu` as for `watch`."""
    tick = os.sysconf("SC_CLK_TCK")
    busy, steal = _cpu_times(_read("/proc/stat"), tick)
    times = os.times()
    load = _read("/proc/loadavg").split()
    return Snapshot(
        wall_s=time.monotonic(),
        busy_s=busy,
        steal_s=steal,
        own_s=times.user + times.system + times.children_user + times.children_system,
        load1=float(load[0]) if load else None,
        mhz=_mean_mhz(_read("/proc/cpuinfo")),
        throttles=_throttles(),
        processes=dict(_processes(tick)),
        thermals=read_thermals(gpu=gpu),
    )


def _cpu_times(text: str, tick: int) -> tuple[float, float]:
    fields = [int(word) for word in text.partition("\n")[0].split()[1:]]
    if len(fields) <= _STEAL:
        return 0.0, 0.0
    return sum(fields[index] for index in _BUSY) / tick, fields[_STEAL] / tick


def _mean_mhz(cpuinfo: str) -> float | None:
    values = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)]
    return sum(values) / len(values) if values else None


def _throttles() -> int | None:
    pattern = "cpu[0-9]*/thermal_throttle/core_throttle_count"
    counts = [_read(str(path)).strip() for path in Path("/sys/devices/system/cpu").glob(pattern)]
    return sum(int(count) for count in counts if count.isdecimal()) if counts else None


def _processes(tick: int) -> Iterator[tuple[int, tuple[str, float]]]:
    """Other processes: pid, name and CPU seconds, without this process and its children."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        if int(path.parent.name) == os.getpid():
            continue
        text = _read(str(path))
        name, rest = text.partition("(")[2].rpartition(")")[::2]
        words = rest.split()
        if len(words) > 12 and int(words[1]) != os.getpid():
            yield int(path.parent.name), (name, (int(words[11]) + int(words[12])) / tick)


def _busiest(before: Snapshot, after: Snapshot, core_seconds: float) -> list[str]:
    used = {
        (name, pid): seconds - before.processes.get(pid, (name, 0.0))[1]
        for pid, (name, seconds) in after.processes.items()
    }
    ranked = sorted(used.items(), key=lambda item: -item[1])[:_SHOWN]
    return [f"{name} {share:.0%}" for (name, _), seconds in ranked if (share := seconds / core_seconds) >= 0.01]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
