"""What NVML tells of GPUs, through a stub of its library; and where there is none."""

import ctypes
from pathlib import Path

import pytest
from nvml_stub import nvml_library

from resnetrt.nvml import GpuState, read_gpu_states


def test_a_gpu_that_tells_everything_and_one_that_does_not(tmp_path: Path):
    library = nvml_library(tmp_path, reasons=0x01 | 0x04 | 0x40)
    first, second = read_gpu_states(library)
    assert first == GpuState(
        61.0, 412.5, 700.0, 1755.0, 1980.0, 2619.0, 2619.0, ("power cap", "hardware thermal slowdown"), "GPU-0a"
    )
    assert second == GpuState(temperature_c=40.0, uuid="GPU-14")
    assert first.limits == {"power_limit_w": 700.0, "sm_max_mhz": 1980.0, "memory_max_mhz": 2619.0}
    assert ctypes.CDLL(library).stops() == 1


@pytest.mark.parametrize(
    ("uuid", "told"),
    [("0a", "GPU-0a"), ("14", "GPU-14"), ("77", "GPU-0a"), ("ff", "GPU-0a GPU-14"), ("", "GPU-0a GPU-14")],
    ids=["first", "second", "MIG instance of the first", "unknown", "none"],
)
def test_one_gpu_is_told_by_its_uuid(tmp_path: Path, uuid: str, told: str):
    """NVML counts by the bus, CUDA by speed unless told otherwise, so a number would say nothing."""
    assert [gpu.uuid for gpu in read_gpu_states(nvml_library(tmp_path), uuid)] == told.split()


@pytest.mark.parametrize("bit", [0x01, 0x02, 0x10, 0x100])
def test_idle_and_chosen_clocks_are_no_limit(tmp_path: Path, bit: int):
    assert read_gpu_states(nvml_library(tmp_path, reasons=bit))[0].limited_by == ()


def test_without_the_library_or_where_it_does_not_start_there_is_nothing(tmp_path: Path):
    assert read_gpu_states(str(tmp_path / "libnvidia-ml.so.1")) == ()
    assert read_gpu_states(nvml_library(tmp_path, init=9)) == ()
    assert read_gpu_states("libm.so.6") == ()  # a library without NVML's functions
