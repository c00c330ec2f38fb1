"""A process that judges networks: its segmentation fault, hang or exit is a finding, and does not end the run."""

import multiprocessing
import os
import shutil
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.studies.network_fuzz.spec import NetworkSpec
from resnetrt.benchmarks.studies.network_fuzz.verdict import NetworkVerdict

_STARTING = 300.0  # seconds allowed for imports on a busy machine


class WorkerProcess:
    """One process at a time, replaced when it dies or takes longer than `limit_s` for a network."""

    def __init__(self, limit_s: float, log: Path) -> None:
        self._limit_s, self._log = limit_s, log
        self._process: Any = None
        self._pipe: Connection | None = None

    def judge(
        self, what: int | NetworkSpec, focus: str | None = None
    ) -> tuple[NetworkSpec | None, NetworkVerdict | None]:
        """The network of a seed, or a spec, and its verdict; None if it gives no network."""
        pipe = self._ready()
        spec: NetworkSpec | None = None if isinstance(what, int) else what
        request: object = (what if isinstance(what, int) else what.to_json(), focus)
        stage = "build"
        while True:
            try:
                if request:
                    pipe.send(request)
                    request = None
                if not pipe.poll(self._limit_s):
                    self.close()
                    return spec, _ended(stage, f"no end after {self._limit_s:.0f} s")
                kind, value = pipe.recv()
            except (EOFError, ConnectionError):
                code = self._exit_code()
                return spec, _ended(stage, f"the process ended: {_signal(code)}")
            if kind == "stage":
                stage = value
            elif kind == "spec":
                spec = NetworkSpec.from_json(value)
            elif kind == "verdict":
                return spec, NetworkVerdict.from_json(value)
            else:
                return spec, None

    @property
    def pid(self) -> int:
        """The id of the process that judges next; the process is started if necessary."""
        self._ready()
        return int(self._process.pid)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._exit_code()

    def _ready(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, str(self._log)), daemon=True)
            self._process.start()
            theirs.close()
            if not self._pipe.poll(_STARTING) or self._pipe.recv()[0] != "ready":
                raise RuntimeError("a worker did not start; see its log " + str(self._log))
        return self._pipe

    def _exit_code(self) -> int:
        self._process.join()
        code, self._process, self._pipe = self._process.exitcode, None, None
        return int(code)


def _ended(stage: str, what: str) -> NetworkVerdict:
    verdict = NetworkVerdict()
    verdict.add("crash", stage, what)
    return verdict


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(pipe: Connection, log: str) -> None:
    """The worker's side: judge everything that arrives until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["RESNETRT_THREADS"], os.environ["RESNETRT_PROGRESS"] = "1", "0"
    import torch

    from resnetrt.benchmarks.studies.network_fuzz.build import Unbuildable
    from resnetrt.benchmarks.studies.network_fuzz.grammar import draw_network
    from resnetrt.benchmarks.studies.network_fuzz.judge import judge

    torch.set_num_threads(1)
    translate_once()
    pipe.send(("ready", None))
    while True:
        try:
            what, focus = pipe.recv()
        except EOFError:
            return
        folder = Path(tempfile.mkdtemp(prefix="network-fuzz-"))
        try:
            spec = draw_network(what) if isinstance(what, int) else NetworkSpec.from_json(what)
            pipe.send(("spec", spec.to_json()))
            verdict = judge(spec, folder, lambda stage: pipe.send(("stage", stage)), focus)
            pipe.send(("verdict", verdict.to_json()))
        except Unbuildable as error:
            pipe.send(("unbuildable", str(error)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def translate_once() -> None:
    """Share torch's table of ONNX translations among all exports of this process; torch rebuilds it in every export.

    Measured on a busy machine: 6.9 s an export with rebuilding, 3.0 s without. If torch keeps the table elsewhere,
    nothing is shared.
    """
    import functools

    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return
    if hasattr(ONNXRegistry, "from_torchlib"):
        table: Any = functools.cache(ONNXRegistry.from_torchlib)
        ONNXRegistry.from_torchlib = staticmethod(table)  # type: ignore[method-assign]
