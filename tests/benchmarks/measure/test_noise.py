"""What counts as a disturbed run, on planted counters, and that the machine's own can be read."""

from dataclasses import replace

import pytest

from resnetrt.benchmarks.measure.noise import Noise, Snapshot, judge, snapshot, watch
from resnetrt.nvml import GpuState
from resnetrt.thermals import Clock, Thermals, with_gpus

BEFORE = Snapshot(100.0, 50.0, 1.0, 20.0, 0.5, 2600.0, 7, {1: ("init", 5.0), 2: ("python", 9.0)})
# ten seconds on two cores, of which this process used 18 s
AFTER = replace(BEFORE, wall_s=110.0, busy_s=68.0, own_s=38.0)


def test_a_quiet_run_is_not_disturbed():
    noise = judge(BEFORE, AFTER, 2)
    assert (noise.disturbed, noise.others_share, noise.seconds, noise.throttled) == (False, 0.0, 10.0, False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"busy_s": 70.0, "processes": {2: ("python", 10.6), 3: ("cc1", 0.4), 4: ("idle", 0.0)}},
            r"other processes took 10% of the cores \(python 8%, cc1 2%\)",
        ),
        ({"steal_s": 2.0}, "the hypervisor took 5% of the cores"),
        ({"mhz": 2000.0}, "frequency fell from 2600 to 2000 MHz"),
        ({"throttles": 8}, "throttled itself"),
    ],
)
def test_each_planted_disturbance_is_named(change, reason):
    import re

    noise = judge(BEFORE, replace(AFTER, **change), 2)
    assert noise.disturbed
    assert re.search(reason, noise.reasons[0])


COOL = Thermals({"gpu-thermal": 46.5}, {"17000000.gpu": Clock(1020, 306, 1020, "podgov")}, ())
HOT = Thermals({"cpu-thermal": 81.0, "gpu-thermal": 98.5}, COOL.clocks, ("gpu-throttle-alert",))


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        (COOL, COOL, []),
        (COOL, HOT, ["the hardware was slowed by gpu-throttle-alert (gpu-thermal at 98 °C)"]),
        (HOT, COOL, ["the hardware was slowed by gpu-throttle-alert (gpu-thermal at 46 °C)"]),
        (
            COOL,
            replace(COOL, clocks={"17000000.gpu": Clock(612, 306, 612, "podgov")}),
            ["the limit of the clock 17000000.gpu fell from 1020 to 612 MHz"],
        ),
        # it follows the load
        (COOL, replace(COOL, clocks={"17000000.gpu": Clock(306, 306, 1020, "podgov")}), []),
    ],
)
def test_heat_and_lower_limits_disturb(before: Thermals, after: Thermals, reasons: list[str]):
    noise = judge(replace(BEFORE, thermals=before), replace(AFTER, thermals=after), 2)
    assert noise.reasons == reasons
    assert noise.throttled is ("slowed" in "".join(reasons))
    assert noise.to_json()["temperatures_c"] == after.temperatures_c
    assert noise.to_json()["clocks"]["17000000.gpu"]["max_mhz"] == after.clocks["17000000.gpu"].max_mhz


def test_a_gpu_is_recorded_and_its_heat_disturbs():
    gpu = GpuState(88.0, 640.0, 700.0, 1410.0, 1980.0, limited_by=("power cap", "hardware thermal slowdown"))
    hot = Thermals(throttled_by=with_gpus(None, (gpu,)), gpus=(gpu,))
    noise = judge(replace(BEFORE, thermals=Thermals()), replace(AFTER, thermals=hot), 2)
    assert noise.reasons == ["the hardware was slowed by gpu0 hardware thermal slowdown"]
    assert noise.to_json()["gpus"][0]["power_w"] == 640.0
    assert noise.to_json()["gpus"][0]["limited_by"] == ("power cap", "hardware thermal slowdown")


def test_a_gpu_at_its_power_cap_is_as_it_is_set():
    gpu = GpuState(limited_by=("power cap",))
    assert with_gpus(None, (gpu,)) == ()
    assert with_gpus(("gpu-throttle-alert",), (gpu, GpuState())) == ("gpu-throttle-alert",)
    assert with_gpus(None, (GpuState(),)) is None


def test_what_a_machine_does_not_tell_is_none():
    unknown = replace(BEFORE, mhz=None, throttles=None)
    noise = judge(unknown, replace(AFTER, mhz=None, throttles=None), 2)
    assert (noise.throttled, noise.mhz, noise.disturbed) == (None, None, False)


def test_this_machine_can_be_watched():
    with watch() as noise:
        sum(range(100_000))
    assert noise.seconds > 0
    assert set(noise.to_json()) == {*vars(Noise()), "disturbed"}
    assert snapshot().busy_s >= 0


def test_of_several_gpus_that_of_the_run_is_watched(monkeypatch):
    """A hot one beside it says nothing about the run."""
    asked = []

    def tell(uuid=""):
        asked.append(uuid)
        return (GpuState(limited_by=()),) if uuid == "14" else (GpuState(limited_by=("power brake",)), GpuState())

    monkeypatch.setattr("resnetrt.thermals.read_gpu_states", tell)
    with watch("14") as own:
        pass
    with watch() as both:
        pass
    assert asked == ["14", "14", "", ""]
    assert (len(own.gpus), len(both.gpus)) == (1, 2)
    assert not any("power brake" in reason for reason in own.reasons)
    assert any("gpu0 power brake" in reason for reason in both.reasons)
