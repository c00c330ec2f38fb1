"""What of resnetrt works on this machine.

Each optional package is imported in its own process, so a crash or hang is only a finding. The package is not used
further: TensorRT's lean runtime crashes on a machine without a device.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from resnetrt import telemetry
from resnetrt.board import Board, cuda_toolkit, read_board
from resnetrt.cuda_driver import remedies, too_old
from resnetrt.interpreter import Interpreter, find_system_package, hidden, read_interpreter
from resnetrt.kept_files import KeptFiles, read_kept_files
from resnetrt.machine import Cpu, GpuReport, Memory, read_cpu, read_gpus, read_memory
from resnetrt.parts import PARTS, RIVALS, Part
from resnetrt.thermals import Thermals, read_thermals

IMPORT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class PartState:
    """The state of one part; `detail` says what it offers, or in one line why it is broken."""

    name: str
    purpose: str
    status: Literal["ok", "missing", "broken"]
    version: str | None
    detail: str
    install: str


@dataclass(frozen=True)
class Problem:
    """Something that is wrong here, and alternative commands that each fix it."""

    what: str
    fixes: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """All that `resnetrt doctor` prints."""

    cpu: Cpu
    memory: Memory
    gpu: GpuReport
    parts: tuple[PartState, ...]
    problems: tuple[Problem, ...]
    interpreter: Interpreter
    board: Board | None = None
    thermals: Thermals = field(default_factory=Thermals)
    cuda_toolkit: str | None = None
    kept: KeptFiles | None = None


def diagnose(
    parts: Iterable[Part] = PARTS, installed: Mapping[str, str] | None = None, root: Path = Path("/")
) -> Diagnosis:
    """Look at the machine and probe every part; a missing or broken one is a finding, never an exception.

    `installed` maps distributions to versions, by default those of this environment. `root` is the root of the file
    system with what the board, its clocks and the system's packages say.
    """
    known = installed_distributions() if installed is None else installed
    cpu, board, interpreter = read_cpu(), read_board(root), read_interpreter()
    with ThreadPoolExecutor(max(2, cpu.cores_usable)) as pool:
        asked = pool.submit(read_gpus)
        states = tuple(pool.map(lambda part: probe(part, known), parts))
    gpu = asked.result()
    states = tuple(_advised(state, gpu.cuda, board) for state in states)
    problems = (
        *_conflicts(known),
        *_broken(states),
        *_out_of_reach(states, interpreter, root),
        *_older_driver(known, gpu.cuda),
    )
    return Diagnosis(
        cpu,
        read_memory(),
        gpu,
        states,
        problems,
        interpreter,
        board,
        read_thermals(root),
        cuda_toolkit(root),
        read_kept_files(),
    )


def installed_distributions() -> dict[str, str]:
    """Normalised name to version of every installed distribution; of two of one name the first on the path counts."""
    versions: dict[str, str] = {}
    for distribution in distributions():
        metadata = distribution.metadata
        if "Name" in metadata:  # leftovers of a failed uninstall have no name
            versions.setdefault(re.sub(r"[-_.]+", "-", metadata["Name"]).lower(), distribution.version)
    return versions


def probe(part: Part, installed: Mapping[str, str], timeout_s: float = IMPORT_TIMEOUT_S) -> PartState:
    """Import `part` in a new process and say what happened."""
    versions = [installed[name] for name in part.distributions if name in installed]
    if not versions and not _can_be_found(part.module):
        return PartState(part.name, part.purpose, "missing", None, "", part.install)
    answer = _import_elsewhere(part, timeout_s)
    # if several distributions share a folder, only the module knows which one it is
    version = versions[0] if len(versions) == 1 else answer.get("version") or None
    if "error" in answer:
        return PartState(part.name, part.purpose, "broken", version, answer["error"], part.install)
    detail = "; ".join(filter(None, (answer["detail"], _origin(answer["file"]))))
    return PartState(part.name, part.purpose, "ok", version, detail, part.install)


def _origin(file: str) -> str:
    """`of the system`, with the folder, for a module from there; of what is in a venv nothing is said."""
    match = re.match(r".*/dist-packages(?=/)", file)
    return f"of the system, {match[0]}" if match else ""


def _can_be_found(module: str) -> bool:
    """Whether the top-level package is there; a submodule is not looked for, as that would import its parent."""
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


_MARK = "resnetrt-doctor:"
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import importlib, json
sys.modules.update(dict.fromkeys({silent!r}))
detail, m = "", importlib.import_module({module!r})
{facts}
about = {{"version": getattr(m, "__version__", ""), "detail": detail, "file": getattr(m, "__file__", "") or ""}}
print({mark!r} + json.dumps({{name: str(value) for name, value in about.items()}}), flush=True)
"""


def _import_elsewhere(part: Part, timeout_s: float) -> dict[str, Any]:
    """`version` and `detail`, or `error` in one line. The probe takes the empty path away, so that no file of
    the current folder is imported; Python 3.10 has no `-P`.
    """
    code = _PROBE.format(silent=telemetry.PACKAGES, module=part.module, facts=part.facts, mark=_MARK)
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"its import did not end within {timeout_s:.0f} s"}
    except OSError as error:
        return {"error": f"no process to import it in: {error}"}
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if answers:  # a crash after that is one at exit, not of the import
        answer: dict[str, Any] = json.loads(answers[-1].removeprefix(_MARK))
        return answer
    return {"error": _reason(done.returncode, done.stderr)}


def _reason(returncode: int, stderr: str) -> str:
    if returncode < 0:
        return f"its import crashes the process (signal {-returncode})"
    lines = stderr.strip().splitlines()
    return lines[-1].strip() if lines else f"its import ends the process (exit status {returncode})"


def _conflicts(installed: Mapping[str, str]) -> Iterable[Problem]:
    """One problem for each set of installed distributions that overwrite each other."""
    for rivals in RIVALS:
        both = [name for name in rivals if name in installed]
        if len(both) > 1:
            listed = " and ".join(f"{name} {installed[name]}" for name in both)
            what = f"{listed} are installed together: they share one package folder and overwrite each other's files"
            # removing one deletes files of the others, so remove all and install one again
            yield Problem(what, tuple(f"pip uninstall -y {' '.join(both)} && pip install {name}" for name in both))


def _broken(findings: Iterable[PartState]) -> Iterable[Problem]:
    for finding in findings:
        if finding.status == "broken":
            what = f"{finding.name} {finding.version or ''}".strip() + f" is installed and unusable: {finding.detail}"
            yield Problem(what, (_mend(finding),))


def _advised(state: PartState, cuda: str | None, board: Board | None) -> PartState:
    """`state` with the command that fits this machine: a Jetson has its own TensorRT, an older driver needs CUDA 12."""
    install = state.install
    if state.name == "tensorrt" and board is not None and board.l4t:
        install = "sudo apt install python3-libnvinfer, and a venv made with --system-site-packages"
    elif cuda is not None and cuda.startswith("12."):
        install = install.replace("[gpu]", "[gpu-cu12]")
    return replace(state, install=install)


def _out_of_reach(findings: Iterable[PartState], interpreter: Interpreter, root: Path) -> Iterable[Problem]:
    """TensorRT is part of the system, and this Python does not see it."""
    if any(finding.name == "tensorrt" and finding.status == "missing" for finding in findings):
        package = find_system_package("tensorrt", root, "python3-libnvinfer")
        reason = hidden(package, interpreter) if package else None
        if reason:
            yield Problem(reason[0], (reason[1],))


def _older_driver(installed: Mapping[str, str], driver: str | None) -> Iterable[Problem]:
    """Packages that were made for a later CUDA than the driver serves; minor versions may differ."""
    for name, version in installed.items():
        named = re.fullmatch(r"(?:tensorrt(?:-lean|-dispatch|-rtx)?)-cu(\d+)|(cuda-bindings)", name)
        if driver is None or named is None:
            continue
        needed = ".".join(version.split(".")[:2]) if named[2] else f"{named[1]}.0"
        if int(needed.partition(".")[0]) > int(driver.partition(".")[0]):
            yield Problem(too_old(f"{name} {version}", needed, driver), remedies(needed, driver))


def _mend(finding: PartState) -> str:
    if "libcuda.so" in finding.detail:
        return "install the NVIDIA driver: libcuda.so.1 is part of it"
    pinned = f"{finding.name}=={finding.version}" if finding.version else finding.name
    return f"pip install --force-reinstall --no-deps {pinned}"
