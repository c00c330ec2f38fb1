"""`resnetrt doctor` prints what it found and ends with 0, whatever is missing."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from resnetrt import doctor
from resnetrt.board import Board
from resnetrt.cli import run
from resnetrt.doctor import Diagnosis, PartState, Problem
from resnetrt.interpreter import Interpreter
from resnetrt.machine import Cpu, Gpu, GpuReport, Memory
from resnetrt.thermals import Clock, Thermals

INSTALL = "pip install 'resnetrt[gpu]'"
PARTS = (
    PartState("onnxruntime", "run on the CPU", "ok", "1.32.0", "built with CPU", "pip install onnxruntime"),
    PartState("tensorrt", "compile", "missing", None, "", INSTALL),
    PartState("pycuda", "GPU memory", "broken", "2026.1", "ImportError: [libcuda]", INSTALL),
)
PYTHON = Interpreter("3.11.7", "/usr", False, True)
BARE = Diagnosis(
    Cpu("Test CPU", "x86_64", 4, 2, {}), Memory(None, None, None), GpuReport(detail="no driver"), (), (), PYTHON
)
FULL = Diagnosis(
    Cpu("Test CPU", "x86_64", 4, 2, {"avx2": True, "avx512_vnni": False}),
    Memory(2**34, 2**33, 2**32),
    GpuReport("580.95", "13.0", (Gpu("H100", 80 * 2**30, "9.0"), Gpu("Orin", None, None))),
    PARTS,
    (Problem("two of a kind", ("remove one", "remove the other")),),
    PYTHON,
)
JETSON = replace(
    FULL,
    interpreter=Interpreter("3.10.12", "/srv/.venv", True, True),
    board=Board("NVIDIA Jetson Orin Nano", "36.4.7", "6.2.1+b38", "MAXN_SUPER (mode 2)"),
    thermals=Thermals(
        {"cpu-thermal": 48.3, "gpu-thermal": 97.6},
        {"cpu": Clock(1228.8, 729.6, 1728, "schedutil"), "17000000.gpu": Clock(1020, 1020, 1020, "nvhost_podgov")},
        ("gpu-throttle-alert",),
    ),
    cuda_toolkit="12.6.11",
)

Doctor = Callable[..., tuple[str, str]]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run `doctor` over a given diagnosis; stdout and stderr of a run that must end with 0."""

    def call(diagnosis: Diagnosis, *arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis)
        assert run(["doctor", *arguments]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return call


def test_a_machine_that_says_nothing_is_unknown(output: Doctor):
    out, _ = output(BARE)
    assert "2 of 4 cores usable" in out
    assert out.count("unknown") == 2
    assert "no driver" in out


def test_parts_show_version_or_the_command_that_installs_them(output: Doctor):
    lines = {line.split()[1]: line for line in output(FULL)[0].splitlines() if line.startswith("│")}
    assert "1.32.0" in lines["onnxruntime"]
    assert "built with CPU" in lines["onnxruntime"]
    assert INSTALL in lines["tensorrt"]
    assert "BROKEN: ImportError: [libcuda]" in lines["pycuda"]


def test_the_gpu_and_the_processor_are_described(output: Doctor):
    out, _ = output(FULL)
    assert "avx2 (no INT8 dot product: quantize with 7-bit weights)" in out
    assert "16.0 GiB, 8.0 GiB available, 4.0 GiB limit" in out
    assert "580.95, CUDA 13.0" in out
    assert "H100, 80 GiB, compute capability 9.0" in out
    assert "Orin, memory unknown, compute capability unknown" in out


def test_a_jetson_shows_what_its_speed_depends_on(output: Doctor):
    lines = [" ".join(line.strip("│").split()) for line in output(JETSON)[0].splitlines() if line.startswith("│")]
    assert {
        "CUDA of the system │ 12.6.11",
        "Python │ 3.10.12, venv /srv/.venv that sees the system's packages",
        "board │ NVIDIA Jetson Orin Nano, JetPack 6.2.1+b38 (L4T 36.4.7)",
        "power mode │ MAXN_SUPER (mode 2)",
        "clock cpu │ 1229 MHz, from 730 to 1728, governor schedutil",
        "clock 17000000.gpu │ 1020 MHz, locked, governor nvhost_podgov",
        "temperatures │ cpu-thermal 48 °C, gpu-thermal 98 °C",
        "THROTTLED │ slowed by gpu-throttle-alert",
    } <= set(lines)


def test_problems_come_last_with_what_mends_them(output: Doctor):
    assert output(FULL)[0].endswith("problem: two of a kind\n  fix: remove one\n   or: remove the other\n")


def test_json_is_one_object(output: Doctor):
    out, err = output(FULL, "--json")
    record = json.loads(out)
    assert record["schema_version"] == 1
    assert record["cpu"]["instruction_sets"] == {"avx2": True, "avx512_vnni": False}
    assert record["cpu"]["int8_dot_product"] is False
    assert record["gpu"]["devices"][1] == {"name": "Orin", "memory_bytes": None, "compute_capability": None}
    assert record["parts"][1]["install"] == INSTALL
    assert (record["board"], record["interpreter"]["version"]) == (None, "3.11.7")
    assert record["problems"] == [{"what": "two of a kind", "fixes": ["remove one", "remove the other"]}]
    assert err == ""


def test_the_real_machine_is_diagnosed(capsys: pytest.CaptureFixture[str]):
    assert run(["doctor", "--json"]) == 0
    parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert parts["onnxruntime"]["status"] == "ok"
    assert "CPU" in parts["onnxruntime"]["detail"]
