"""`resnetrt serve` as a process of its own, on free ports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bare_http

WAIT_S = 60


@dataclass
class ServeProcess:
    """A running server and its addresses `host:port`."""

    process: "subprocess.Popen[str]"
    log: Path
    ports: dict[str, Any] = field(default_factory=dict)

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.ports['http_port']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['grpc_port']}"

    @property
    def metrics(self) -> str:
        return f"127.0.0.1:{self.ports['metrics_port']}"

    def logged(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def scrape(self) -> dict[str, float]:
        """Metrics by name with labels."""
        lines = bare_http.request(self.metrics, "GET", "/metrics")[2].decode().splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    def await_ready(self) -> None:
        """Until it is ready; fails with its log if it ends before."""
        for _ in range(WAIT_S * 20):
            assert self.process.poll() is None, self.log.read_text()
            if bare_http.request(self.http, "GET", "/v2/health/ready")[0] == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"not ready:\n{self.log.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@contextmanager
def serving(
    log: Path,
    arguments: Sequence[str | Path],
    ready: bool = True,
    python: Iterable[str] = (sys.executable,),
    program: Iterable[str] = ("-m", "resnetrt.cli"),
) -> Iterator[ServeProcess]:
    """A server on free ports, run by `program` in the command `python`; killed at the end if it still runs."""
    command = [*python, *program, "serve", *map(str, arguments), "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        server = ServeProcess(process, log, json.loads(line))
        if ready:
            server.await_ready()
        yield server
    finally:
        process.kill()
        process.communicate()
