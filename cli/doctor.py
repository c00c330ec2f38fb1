"""`resnetrt doctor`: what this machine has, what is missing, and the command that would install it."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.output import emit_json, print_table

if TYPE_CHECKING:
    from resnetrt.board import Board
    from resnetrt.doctor import Diagnosis, PartState
    from resnetrt.interpreter import Interpreter
    from resnetrt.machine import Cpu, GpuReport, Memory
    from resnetrt.thermals import Thermals


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(as_json: bool) -> None:
    """What this machine has: processor, memory, GPU, and each backend's version or the command that installs it.

    A missing part is no failure: the exit code is 0.
    """
    from resnetrt.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        emit_json(record(diagnosis))
        return
    print_table("machine", ("what", "found"), _machine(diagnosis), left=2)
    print_table("parts", ("part", "version", "for", "found, or how to install it"), map(_row, diagnosis.parts), left=4)
    for problem in diagnosis.problems:
        click.echo(f"problem: {problem.what}")
        for index, fix in enumerate(problem.fixes):
            click.echo(f"  {' or' if index else 'fix'}: {fix}")


def record(diagnosis: "Diagnosis") -> dict[str, Any]:
    """The JSON record, with what the instruction sets mean for INT8."""
    whole = asdict(diagnosis)
    whole["cpu"]["int8_dot_product"] = diagnosis.cpu.int8_dot_product
    return whole


def _machine(diagnosis: "Diagnosis") -> Iterable[tuple[str, str]]:
    yield "processor", f"{diagnosis.cpu.model}, {diagnosis.cpu.cores_usable} of {diagnosis.cpu.cores} cores usable"
    yield "instructions", _instructions(diagnosis.cpu)
    yield "memory", _memory(diagnosis.memory)
    yield from _gpus(diagnosis.gpu)
    if diagnosis.cuda_toolkit:
        yield "CUDA of the system", diagnosis.cuda_toolkit
    yield "Python", _python(diagnosis.interpreter)
    yield from _board(diagnosis.board)
    yield from _thermals(diagnosis.thermals)
    if diagnosis.kept is not None:
        kept = diagnosis.kept
        yield "kept for later", f"{kept.folder}: {kept.files} files, {kept.size_bytes / 1e6:.1f} MB"


def _python(interpreter: "Interpreter") -> str:
    if not interpreter.venv:
        return f"{interpreter.version}, {interpreter.prefix}"
    sees = "sees" if interpreter.system_packages else "does not see"
    return f"{interpreter.version}, venv {interpreter.prefix} that {sees} the system's packages"


def _board(board: "Board | None") -> Iterable[tuple[str, str]]:
    if board is None:
        return
    jetpack = f", JetPack {board.jetpack or 'unknown'} (L4T {board.l4t})" if board.l4t else ""
    yield "board", f"{board.model}{jetpack}"
    if board.power_mode:
        yield "power mode", board.power_mode


def _thermals(thermals: "Thermals") -> Iterable[tuple[str, str]]:
    for name, clock in thermals.clocks.items():
        limits = "locked" if clock.locked else f"from {clock.min_mhz:.0f} to {clock.max_mhz:.0f}"
        yield f"clock {name}", f"{clock.mhz:.0f} MHz, {limits}, governor {clock.governor or 'unknown'}"
    if thermals.temperatures_c:
        yield "temperatures", ", ".join(f"{name} {value:.0f} °C" for name, value in thermals.temperatures_c.items())
    if thermals.throttled_by:
        yield "THROTTLED", f"slowed by {', '.join(thermals.throttled_by)}"


def _instructions(cpu: "Cpu") -> str:
    present = ", ".join(name for name, here in cpu.instruction_sets.items() if here)
    if cpu.int8_dot_product is None:
        return "unknown"
    speed = "INT8 at full speed" if cpu.int8_dot_product else "no INT8 dot product: quantize with 7-bit weights"
    return f"{present or 'none that matter here'} ({speed})"


def _memory(memory: "Memory") -> str:
    names = ((memory.total_bytes, ""), (memory.available_bytes, " available"), (memory.limit_bytes, " limit"))
    return ", ".join(f"{size / 2**30:.1f} GiB{name}" for size, name in names if size is not None) or "unknown"


def _gpus(gpu: "GpuReport") -> Iterable[tuple[str, str]]:
    if gpu.driver or gpu.cuda:
        yield "GPU driver", f"{gpu.driver or 'version unknown'}, CUDA {gpu.cuda or 'unknown'}"
    for device in gpu.devices:
        size = f"{device.memory_bytes / 2**30:.0f} GiB" if device.memory_bytes is not None else "memory unknown"
        yield "GPU", f"{device.name}, {size}, compute capability {device.compute_capability or 'unknown'}"
    if gpu.detail:
        yield "GPU", gpu.detail


def _row(part: "PartState") -> tuple[str, str, str, str]:
    if part.status == "missing":
        return part.name, "-", part.purpose, part.install
    detail = f"BROKEN: {part.detail}" if part.status == "broken" else part.detail
    return part.name, part.version or "unknown", part.purpose, detail
