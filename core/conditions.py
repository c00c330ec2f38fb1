"""The conditions of a run that every result row carries: machine, versions, threads, source revision."""

import os
import platform
import subprocess
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from resnetrt.board import read_board
from resnetrt.machine import cpu_model, read_gpus
from resnetrt.nvml import read_gpu_states
from resnetrt.settings import read_settings

RESULT_SCHEMA_VERSION = 1  # of every JSON object that a command prints or a report holds

# device files of NVIDIA's driver on servers and PCs, on Jetsons, and under WSL
_NVIDIA = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
_TOOLS = ("resnetrt", "numpy", "torch", "onnx", *_RUNTIMES)


def tool_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    versions = {}
    for tool in _TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return versions


@cache
def source_revision() -> str | None:
    """The git commit of a source checkout, `-dirty` if it was changed; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def gpu_conditions() -> dict[str, Any] | None:
    """The NVIDIA driver, its CUDA and the GPUs with their limits of power and clocks; None without a GPU.

    What changes from moment to moment, such as its temperature, is not among it: two runs on one machine are compared.
    """
    if not any(Path(place).exists() for place in _NVIDIA):
        return None  # at once: asking the driver takes a process
    report = read_gpus()
    if not report.devices:
        return None
    devices = [asdict(device) for device in report.devices]
    return {"driver": report.driver, "cuda": report.cuda, "devices": devices, "limits": _limits()}


def _limits() -> list[dict[str, float | None]]:
    return [gpu.limits for gpu in read_gpu_states()]


def plural(count: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def conditions() -> dict[str, Any]:
    """Everything a reader needs to judge or repeat a result.

    With `board` on a small computer that names itself, and `gpu` where there is an NVIDIA GPU.
    """
    board = read_board()
    facts = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": read_settings().threads,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": tool_versions(),
        "revision": source_revision(),
    }
    gpu = gpu_conditions()
    if board is not None:
        facts["board"] = asdict(board)
    return facts if gpu is None else facts | {"gpu": gpu}
