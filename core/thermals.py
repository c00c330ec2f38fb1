"""Temperatures, clocks and whether the hardware slows itself down, as Linux tells them in /sys; without root.

Each reader takes the root of the file system, since a test plants there what a device has.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from resnetrt.board import read_text
from resnetrt.nvml import POWER_CAP, GpuState, read_gpu_states

# cooling devices that slow the processor or the GPU; others are fans. Jetson's alerts are named `cpu-throttle-alert`.
_SLOWING = re.compile(r"-throttle-alert$|^hot-surface-alert$|^(thermal-)?(cpufreq|devfreq)|^Processor$")
_GPU = re.compile(r"gpu|g[avpm]\d+b")  # 17000000.gpu, 17000000.ga10b, gpu-gpc-0
_ROOT = Path("/")
_POSSIBLE_C = (-50.0, 150.0)  # zones that are switched off report -256 or 0 K


@dataclass(frozen=True)
class Clock:
    """A frequency and the limits that are set for it, in MHz. Equal limits are a locked clock, as by jetson_clocks."""

    mhz: float
    min_mhz: float
    max_mhz: float
    governor: str

    @property
    def locked(self) -> bool:
        """Whether the clock can't change."""
        return self.min_mhz == self.max_mhz


@dataclass(frozen=True)
class Thermals:
    """Temperatures by thermal zone in °C, clocks by domain; what slows the hardware, None where it does not say.

    `gpus` are those that NVML knows, which a Jetson's is not. Their power cap slows nothing down: it is how they are
    set, and many reach it under load.
    """

    temperatures_c: dict[str, float] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    throttled_by: tuple[str, ...] | None = None
    gpus: tuple[GpuState, ...] = ()


def read_thermals(root: Path = _ROOT, gpu: str = "") -> Thermals:
    """What the machine says now; empty where it says nothing, as in most virtual machines.

    Of several GPUs that of the UUID `gpu`, as `read_gpu_states` takes it; all if it is empty.
    """
    gpus = read_gpu_states(uuid=gpu) if root == _ROOT else ()
    return Thermals(_temperatures(root), dict(_clocks(root)), with_gpus(_throttled_by(root), gpus), gpus)


def with_gpus(slowing: tuple[str, ...] | None, gpus: tuple[GpuState, ...]) -> tuple[str, ...] | None:
    """What slows the hardware, with what slows each GPU as `gpu0 power brake`."""
    if all(gpu.limited_by is None for gpu in gpus):
        return slowing
    own = [
        f"gpu{index} {reason}"
        for index, gpu in enumerate(gpus)
        for reason in gpu.limited_by or ()
        if reason != POWER_CAP
    ]
    return (*(slowing or ()), *own)


def _temperatures(root: Path) -> dict[str, float]:
    """The hottest zone of each type."""
    hottest: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        name, millidegrees = read_text(zone / "type").strip(), _number(zone / "temp")
        if name and millidegrees is not None and _POSSIBLE_C[0] < millidegrees / 1000 < _POSSIBLE_C[1]:
            hottest[name] = max(hottest.get(name, _POSSIBLE_C[0]), millidegrees / 1000)
    return hottest


def _clocks(root: Path) -> Iterator[tuple[str, Clock]]:
    """`cpu`, the mean over the policies of all cores, and each GPU under its own name."""
    policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    known = [clock for path in policies if (clock := _clock(path, "scaling_", 1e3, "scaling_governor"))]
    if known:
        now, low, high = (fmean(getattr(clock, name) for clock in known) for name in ("mhz", "min_mhz", "max_mhz"))
        yield "cpu", Clock(now, low, high, known[0].governor)
    for path in sorted(root.glob("sys/class/devfreq/*")):
        if _GPU.search(path.name) and (clock := _clock(path, "", 1e6, "governor")):
            yield path.name, clock


def _clock(folder: Path, prefix: str, per_mhz: float, governor: str) -> Clock | None:
    now, low, high = (_number(folder / f"{prefix}{name}_freq") for name in ("cur", "min", "max"))
    if now is None or low is None or high is None:
        return None
    return Clock(now / per_mhz, low / per_mhz, high / per_mhz, read_text(folder / governor).strip())


def _throttled_by(root: Path) -> tuple[str, ...] | None:
    states: dict[str, int] = {}
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        name, state = read_text(device / "type").strip(), _number(device / "cur_state")
        if _SLOWING.search(name) and state is not None:
            states[name] = max(state, states.get(name, 0))
    for sensor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        alarm = _number(sensor / "in0_lcrit_alarm")
        if read_text(sensor / "name").strip() == "rpi_volt" and alarm is not None:  # the firmware then halves clocks
            states["under-voltage"] = alarm
    return tuple(name for name, state in states.items() if state > 0) if states else None


def _number(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None
