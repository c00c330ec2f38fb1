"""The conditions of a run that every result row carries: machine, versions, threads, source revision."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
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

# what `condition_lines` has words for
_SAID = ("cpu", "cores", "threads", "cpus", "system", "python", "board", "gpu", "versions", "revision", "schedule")


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


def threads_text(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread" if count == 1 else f"{count} threads"


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


def condition_lines(conditions: Mapping[str, Any]) -> dict[str, str]:
    """The conditions of a run of any version in words, for people: terms and their texts; other names are kept."""
    lines = {name: "; ".join(filter(None, text)) for name, text in _known(conditions)}
    lines |= {name.replace("_", " "): str(value) for name, value in conditions.items() if name not in _SAID}
    return {name: text for name, text in lines.items() if text}


def _known(conditions: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    board = conditions.get("board") or {}
    l4t = f"L4T {board['l4t']}" if board.get("l4t") else ""
    jetpack = f"JetPack {board['jetpack']}" if board.get("jetpack") else ""
    mode = f"power mode {board['power_mode']}" if board.get("power_mode") else ""
    yield "board", (board.get("model") or "", jetpack, l4t, mode)
    yield "processor", (str(conditions.get("cpu") or ""), *_cores(conditions))
    yield from _gpus(conditions.get("gpu") or {})
    yield "system", (str(conditions.get("system") or ""), *_labelled("Python", conditions.get("python")))
    versions = (conditions.get("versions") or {}).items()
    yield "versions", (", ".join(f"{name} {number}" for name, number in versions),)
    yield "source", _labelled("revision", conditions.get("revision"))
    yield "measured", tuple(_schedule(conditions.get("schedule") or {}))


def _labelled(label: str, value: object) -> tuple[str, ...]:
    return () if value is None else (f"{label} {value}",)


def _cores(conditions: Mapping[str, Any]) -> Iterator[str]:
    cores, cpus = conditions.get("cores"), conditions.get("cpus")
    if cores is not None:
        numbers = f" (numbers {', '.join(map(str, cpus))})" if cpus else ""
        yield f"{cores} {'core' if cores == 1 else 'cores'}{numbers} for this process"
    if conditions.get("threads") is not None:
        yield threads_text(conditions["threads"])


def _gpus(gpu: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    driver = _labelled("driver", gpu.get("driver")) + _labelled("CUDA", gpu.get("cuda"))
    devices, limits = gpu.get("devices") or (), gpu.get("limits") or ()
    for index, device in enumerate(devices):
        memory, limit = device.get("memory_bytes"), limits[index] if index < len(limits) else {}
        yield (
            "GPU" if len(devices) == 1 else f"GPU {index}",
            (
                str(device.get("name")),
                f"{memory / 1e9:.0f} GB" if memory else "",
                *_labelled("compute capability", device.get("compute_capability")),
                *driver,
                *_most("power", limit.get("power_limit_w"), "W"),
                *_most("SM clock", limit.get("sm_max_mhz"), "MHz"),
                *_most("memory clock", limit.get("memory_max_mhz"), "MHz"),
            ),
        )


def _most(label: str, value: float | None, unit: str) -> tuple[str, ...]:
    return () if value is None else (f"{label} at most {value:g} {unit}",)


def _schedule(schedule: Mapping[str, Any]) -> Iterator[str]:
    """The fields of `measure.timing.Schedule`."""
    if not schedule:
        return
    rounds, most = schedule.get("rounds"), schedule.get("max_rounds")
    yield f"{rounds} rounds{f', up to {most} while an engine has not settled' if most else ''}"
    calls, seconds = schedule.get("block_calls"), schedule.get("min_block_s")
    if calls is not None:
        yield f"blocks of {calls} calls"
    elif seconds is not None:
        yield f"blocks of {seconds:g} s"
    if schedule.get("warm_up_s") is not None and schedule.get("settle_s") is not None:
        yield f"untimed calls before: {schedule['warm_up_s']:g} s at first, {schedule['settle_s']:g} s in each block"
    if schedule.get("budget_s") is not None:
        yield f"budget {schedule['budget_s'] / 60:.1f} minutes"
