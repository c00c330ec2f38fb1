"""What the machine says is read right, and what it does not say is unknown."""

import json
import os
import re
from pathlib import Path

import pytest

from resnetrt import machine
from resnetrt.machine import Cpu, Gpu, GpuReport, combine, cpu_model, instruction_sets, parse_nvidia_smi

X86 = "processor\t: 0\nflags\t\t: fpu avx avx2 avx512f avx512_vnni\nbugs\t\t: none\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def found(cpuinfo: str, architecture: str) -> set[str]:
    return {name for name, present in instruction_sets(cpuinfo, architecture).items() if present}


def test_instruction_sets_of_x86_are_whole_words():
    assert found(X86, "x86_64") == {"avx2", "avx512f", "avx512_vnni"}


def test_instruction_sets_of_arm_have_their_own_names():
    assert found(ARM, "aarch64") == {"asimd", "asimddp", "i8mm"}


def test_without_cpuinfo_nothing_is_claimed():
    assert instruction_sets("", "x86_64") == {}
    assert Cpu("x", "x86_64", 1, 1, {}).int8_dot_product is None


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "expected"),
    [(X86, "x86_64", True), (ARM, "aarch64", True), ("flags : avx avx2 avx512f", "x86_64", False)],
)
def test_int8_dot_product(cpuinfo: str, architecture: str, expected: bool):
    assert Cpu("x", architecture, 1, 1, instruction_sets(cpuinfo, architecture)).int8_dot_product is expected


def test_this_machine_is_read():
    cpu, memory = machine.read_cpu(), machine.read_memory()
    assert 1 <= cpu.cores_usable <= cpu.cores
    assert memory.total_bytes is None or memory.total_bytes > 2**20


def test_a_machine_without_proc_is_unknown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_read", lambda _: "")
    assert machine.read_memory() == machine.Memory(None, None, None)
    assert machine.read_cpu().instruction_sets == {}


def test_the_limit_of_a_container_is_read(monkeypatch: pytest.MonkeyPatch):
    files = {"/proc/meminfo": "MemTotal:  1024 kB\nMemAvailable: 512 kB\n", "/sys/fs/cgroup/memory.max": "4096\n"}
    monkeypatch.setattr(machine, "_read", files.__getitem__)
    assert machine.read_memory() == machine.Memory(2**20, 2**19, 4096)


def test_nvidia_smi_gives_devices_and_driver():
    report = parse_nvidia_smi("NVIDIA H100 80GB HBM3, 580.95.05, 81559, 9.0\nOrin (nvgpu), 580.95.05, [N/A], [N/A]\n")
    assert report.driver == "580.95.05"
    assert report.devices == (Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, "9.0"), Gpu("Orin (nvgpu)", None, None))


def test_nvidia_smi_that_fails_gives_its_reason():
    text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    assert parse_nvidia_smi(text) == GpuReport(detail=text.strip())


def test_without_driver_library_and_nvidia_smi_there_is_no_gpu():
    assert combine("", GpuReport(detail="not found")).detail == "no NVIDIA driver: libcuda.so.1 can't be loaded"


def test_the_driver_library_alone_is_enough():
    said = {"status": 0, "cuda": 13010, "devices": [["Orin", 2**33, "8.7"]]}
    assert combine(json.dumps(said), GpuReport()) == GpuReport(None, "13.1", (Gpu("Orin", 2**33, "8.7"),))


@pytest.mark.parametrize(
    ("status", "reason"), [(0, "reports no device"), (100, "no device"), (803, "reboot"), (1, "1")]
)
def test_a_driver_without_device_says_why(status: int, reason: str):
    said = {"status": status, "cuda": 12080, "devices": []}
    assert reason in combine(json.dumps(said), GpuReport()).detail


def test_a_missing_or_hanging_program_is_no_exception():
    assert machine._output(["no-such-program-anywhere"])[0] == 127


def test_cpu_model_is_the_kernels():
    text = Path("/proc/cpuinfo").read_text()
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    assert cpu_model() == (named[1].strip() if named else os.uname().machine)
