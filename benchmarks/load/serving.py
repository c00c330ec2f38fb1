"""The cost of the server: throughput and latency over gRPC compared with the bare engine, in alternating rounds.

python -m resnetrt.benchmarks.load.serving BUNDLE [--engine ID] [--json]

The clients send requests that were serialised before. They run on the same cores as the server, so their work is part
of the measurement.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.conditions import conditions
from resnetrt.errors import EnvironmentFault, ResnetrtError
from resnetrt.runtime import Session
from resnetrt.runtime.stream.instances import AUTO, load_instances

_SERVICE = "/inference.GRPCInferenceService/"
_PERCENTS = (50, 99)
_START_S = 120


@dataclass(frozen=True)
class LoadPlan:
    """`rounds` of the bare engine and the server for `seconds` each, with `clients` concurrent requests of `batch`."""

    rounds: int = 3
    seconds: float = 5.0
    clients: int = 4
    batch: int = 8
    max_batch_size: int = 8
    instances: int | str = 1
    threads: int | None = None


@dataclass(frozen=True)
class Running:
    """A server process, a call that sends one request and waits for the answer, and a call for its statistics."""

    process_id: int
    send: Callable[[bytes], Any]
    statistics: Callable[[bytes], bytes]

    def engine_ns(self) -> int:
        """The engine's total working time; each batch counts once per request in it."""
        from tritonclient.grpc import service_pb2

        (model,) = service_pb2.ModelStatisticsResponse.FromString(self.statistics(b"")).model_stats
        return int(model.inference_stats.compute_infer.ns)


def measure_serving(bundle: Bundle, engine: str | None, plan: LoadPlan) -> dict[str, Any]:
    """Images a second of the bare engine and over gRPC, the latencies of one client, memory.

    The server's overhead is, request by request, the client's time minus the engine's time. The bare engine (`bare_ms`)
    is no reference for that: an engine that rests between requests is slower than one called in a row, with or without
    a server.

    Raises `EnvironmentFault` if the server does not start or a request fails.
    """
    name = bundle.select_engine(engine)
    with (
        serving(bundle, name, plan) as server,
        closing(load_instances(bundle, name, plan.instances, plan.threads, False)) as instances,
    ):
        first = instances.first
        batch, one = (_images(first, count) for count in (plan.max_batch_size, 1))
        requests = {count: _request(bundle.manifest.name, first, count) for count in (plan.batch, 1)}
        memory_mb = [_rss_mb(server.process_id)]
        bare, served, direct, remote, added = [], [], [], [], []
        for _ in range(plan.rounds):
            bare.append(_offline(instances.sessions, batch, plan.seconds))
            served.append(plan.batch * _saturate(server, requests[plan.batch], plan))
            direct.append(_percentiles(_latencies(lambda: first.infer(one), plan.seconds / 2)))
            remote_ms, added_ms = _one_client(server, requests[1], plan.seconds / 2)
            remote.append(_percentiles(remote_ms))
            added.append(_percentiles(added_ms))
            memory_mb.append(_rss_mb(server.process_id))
    shares = [a / b for a, b in zip(served, bare, strict=True)]
    return {
        "engine": name,
        "plan": vars(plan),
        "bare_images_per_s": bare,
        "served_images_per_s": served,
        "served_share": statistics.median(shares),
        "served_shares": shares,
        "added_p50_ms": statistics.median(row["p50"] for row in added),
        "added_p99_ms": statistics.median(row["p99"] for row in added),
        "added_ms": added,
        "bare_ms": direct,
        "served_ms": remote,
        "server_rss_mb": memory_mb,
    }


@contextmanager
def serving(bundle: Bundle, engine: str, plan: LoadPlan) -> Iterator[Running]:
    """A server of the bundle on free ports."""
    import grpc

    command = [sys.executable, "-m", "resnetrt.cli", "serve", str(bundle.path), "--engine", engine, "--json"]
    command += ["--max-batch-size", str(plan.max_batch_size), "--instances", str(plan.instances)]
    command += ["--threads", str(plan.threads)] if plan.threads else []
    command += [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]
    with subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise EnvironmentFault(f"the server ended with {process.wait()} before it listened; its log says why")
            with grpc.insecure_channel(f"127.0.0.1:{json.loads(line)['grpc_port']}") as channel:
                _await_ready(channel, process)
                calls = (channel.unary_unary(_SERVICE + name) for name in ("ModelInfer", "ModelStatistics"))
                yield Running(process.pid, *calls)
        finally:
            process.terminate()


def _await_ready(channel: Any, process: "subprocess.Popen[str]") -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    check = health_pb2_grpc.HealthStub(channel).Check
    for _ in range(_START_S * 10):
        if process.poll() is not None:
            raise EnvironmentFault(f"the server ended with {process.returncode} while it loaded; its log says why")
        if check(health_pb2.HealthCheckRequest(), wait_for_ready=True).status == 1:
            return
        time.sleep(0.1)
    raise EnvironmentFault(f"the server was not ready within {_START_S} s")


def _images(session: Session, count: int) -> np.ndarray[Any, Any]:
    shape = (count, *(axis or 1 for axis in session.inputs[0].shape[1:]))
    noise = np.random.default_rng(0).integers(0, 256, shape)
    return noise.astype(session.inputs[0].dtype)


def _request(model: str, session: Session, count: int) -> bytes:
    """A serialised ModelInferRequest with random pixels."""
    from tritonclient.grpc import service_pb2

    from resnetrt.runtime.serving.datatypes import v2_name

    batch, spec = _images(session, count), session.inputs[0]
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=spec.name, datatype=v2_name(spec.dtype), shape=batch.shape)
    request.raw_input_contents.append(batch.tobytes())
    return bytes(request.SerializeToString())


def _offline(sessions: Sequence[Session], batch: np.ndarray[Any, Any], seconds: float) -> float:
    """Images a second with every instance busy."""

    def drive(session: Session) -> int:
        count = 0
        while time.monotonic() < end:
            session.infer(batch)
            count += len(batch)
        return count

    with ThreadPoolExecutor(len(sessions)) as pool:
        started = time.monotonic()
        end = started + seconds
        return sum(pool.map(drive, sessions)) / (time.monotonic() - started)


def _saturate(server: Running, request: bytes, plan: LoadPlan) -> float:
    """Requests a second with `clients` requests always in flight."""

    def drive(_: int) -> int:
        count = 0
        while time.monotonic() < end:
            server.send(request)
            count += 1
        return count

    with ThreadPoolExecutor(plan.clients) as pool:
        started = time.monotonic()
        end = started + plan.seconds
        return sum(pool.map(drive, range(plan.clients))) / (time.monotonic() - started)


def _latencies(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of consecutive calls."""
    end, latencies = time.monotonic() + seconds, []
    while time.monotonic() < end:
        started = time.perf_counter()
        call()
        latencies.append(1e3 * (time.perf_counter() - started))
    return latencies


def _one_client(server: Running, request: bytes, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of consecutive requests, and of each request without the engine's time."""
    end, totals, added = time.monotonic() + seconds, [], []
    before = server.engine_ns()
    while time.monotonic() < end:
        started = time.perf_counter()
        server.send(request)
        totals.append(1e3 * (time.perf_counter() - started))
        after = server.engine_ns()
        added.append(totals[-1] - (after - before) / 1e6)
        before = after
    return totals, added


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": float(np.percentile(latencies, percent)) for percent in _PERCENTS}


def _rss_mb(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", status)
    return int(match[1]) / 1024 if match else 0.0


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m resnetrt.benchmarks.load.serving", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--json", action="store_true", dest="as_json")
    types = {"seconds": float, "instances": lambda text: text if text == AUTO else int(text)}
    for name, value in vars(LoadPlan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=types.get(name, int), default=value)
    given = vars(parser.parse_args(arguments))
    plan = LoadPlan(**{name: given[name] for name in vars(LoadPlan())})
    try:
        record = measure_serving(Bundle.open(given["bundle"]), given["engine"], plan)
    except ResnetrtError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if given["as_json"]:
        sys.stdout.write(json.dumps({"conditions": conditions(), **record}, indent=2) + "\n")
        return 0
    bare, served = (statistics.median(record[f"{name}_images_per_s"]) for name in ("bare", "served"))
    sys.stdout.write(
        f"{record['engine']}: bare {bare:.1f} images/s, over gRPC {served:.1f} ({record['served_share']:.1%}); "
        f"one client: p50 +{record['added_p50_ms']:.2f} ms, p99 +{record['added_p99_ms']:.2f} ms; "
        f"server {record['server_rss_mb'][0]:.0f} to {record['server_rss_mb'][-1]:.0f} MB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
