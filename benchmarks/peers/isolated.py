"""One quantizer in its own process: its time, its memory, and the model that it makes.

python -m resnetrt.benchmarks.peers.isolated TOOL BUNDLE DATA SAMPLES OUT
"""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from resnetrt.benchmarks.peers.tools import TOOLS, Tool, ToolJob
from resnetrt.bundle import Bundle
from resnetrt.errors import EnvironmentFault
from resnetrt.parts import missing_part

_TIMEOUT_S = 1800
# packages that a tool imports on first use are loaded before its time counts
_IMPORTS = {"onnxruntime": ("onnxruntime.quantization",), "nncf": ("nncf", "openvino"), "resnetrt": ("onnxruntime",)}


@dataclass(frozen=True)
class Made:
    """A quantized model. `seconds` from images and FP32 model on disk to INT8 model on disk, without imports.

    `peak_rss_bytes` is the peak of the whole process, `imports_rss_bytes` its size before the work began.
    """

    tool: str
    model: str
    samples: int
    seconds: float
    peak_rss_bytes: int
    imports_rss_bytes: int

    @property
    def path(self) -> Path:
        """The model's file; our models lie in a bundle."""
        return Path(self.model)


def make(tool: Tool, bundle: Bundle, data: str, samples: int, folder: Path) -> Made:
    """Quantize a copy of `bundle` in a new process; `folder` receives the model.

    Raises `BackendMissing` without the tool's package, `EnvironmentFault` with the last line of a failed process.
    """
    if not tool.installed:
        raise missing_part(tool.package, tool.name)
    folder = folder.resolve()  # the process runs in this folder
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{tool.name}-{samples}.bundle"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(bundle.path, own)
    out = folder / f"{tool.name}-{samples}"
    command = [sys.executable, "-m", "resnetrt.benchmarks.peers.isolated", tool.name, own, data, samples, out]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentFault(f"{tool.name} on {bundle.path}: its process ended with {done.returncode}: {last}")
    return Made(**json.loads(done.stdout.splitlines()[-1]))


def work(tool: Tool, job: ToolJob) -> Made:
    """Quantize in this process."""
    for name in _IMPORTS[tool.package]:
        importlib.import_module(name)
    imports = _resident("VmRSS")
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        model = tool.quantize(job)
    seconds = time.perf_counter() - started
    return Made(tool.name, str(model.resolve()), job.samples, seconds, _resident("VmHWM"), imports)


def _resident(field: str) -> int:
    """VmRSS (current) or VmHWM (peak), in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    name, bundle_path, spec, count, target = sys.argv[1:]
    made = work(TOOLS[name], ToolJob(Bundle.open(bundle_path), spec, int(count), Path(target)))
    sys.stdout.write(json.dumps(asdict(made)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # skip what a tool does at interpreter exit: it is not measured here
