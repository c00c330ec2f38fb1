"""Evaluation on a Ray cluster: the same file as a local run, also when a node dies in the middle."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from ray_actors import ray_actors

from resnetrt.benchmarks.accuracy.gate import Budget
from resnetrt.benchmarks.accuracy.request import GateRequest
from resnetrt.benchmarks.cluster import pool
from resnetrt.benchmarks.evaluate.run import run_gate
from resnetrt.bundle import Bundle
from resnetrt.errors import DataError, UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.settings import read_settings

NO_RAY = importlib.util.find_spec("ray") is None
with_ray = pytest.mark.skipif(NO_RAY, reason="the extra ray is not installed")
HANG_S = 240.0
IMAGES, BATCH = 1500, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with two engines, and labelled images."""
    folder = tmp_path_factory.mktemp("ray")
    bundle = tiny_bundle.make_bundle(folder / "tiny.bundle")
    for variant in ("fp32", "int8.onnxruntime"):
        compile_variant(bundle, variant, "onnxruntime")
    x = tiny_bundle.frames(IMAGES, 4)
    y = tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(x)).argmax(1)
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


def test_an_actor_takes_the_gpu_that_ray_shows_it():
    """It is number 0 there, whichever the driver was told to take."""
    environment = {"RESNETRT_DEVICE": "1"} | pool._actor_environment(2)
    assert (read_settings(environment).device, read_settings(environment).threads) == (None, 2)


def request(place: Path, results: Path, ray: str | None = None, **options: Any) -> GateRequest:
    budget = Budget(max_drop_pp=2.0)
    return GateRequest(
        str(place / "data.npz"), budget=budget, results=results, ray=ray, **({"batch_size": BATCH} | options)
    )


def when_under_way(journal: Path, act: Callable[[], None]) -> threading.Thread:
    """Call `act` once some batches, and not all, are in the journal."""

    def wait() -> None:
        deadline = time.monotonic() + HANG_S
        while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size > 20_000):
            time.sleep(0.001)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def slow_down(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The driver takes 10 ms to store a batch, so that a fault falls into the middle; returns what it stored."""
    from resnetrt.benchmarks.accuracy.outcomes import FileJournal

    add, stored = FileJournal.add, []

    def slow(self: FileJournal, part: Any) -> None:
        time.sleep(0.01)
        stored.append(len(part.images))
        add(self, part)

    monkeypatch.setattr(FileJournal, "add", slow)
    return stored


@with_ray
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "worker", "node"])
def test_two_nodes_write_the_same_file_whatever_dies(
    place: Path, tmp_path: Path, ray_cluster: Any, fault: str, monkeypatch: pytest.MonkeyPatch
):
    bundle = Bundle.open(place / "tiny.bundle")
    run_gate(bundle, request(place, tmp_path / "local.safetensors"))
    stored = slow_down(monkeypatch)
    dead: list[tuple[str, int]] = []

    def kill() -> None:
        if fault == "worker":
            victim = ray_actors("Scorer")[0]
            os.kill(victim, signal.SIGKILL)
        elif fault == "node":
            ray_cluster.remove_node(ray_cluster.workers[0], allow_graceful=False)
        dead.append((fault, len(stored)))

    thread = when_under_way(tmp_path / "ray.safetensors.journal", kill)
    run_gate(bundle, request(place, tmp_path / "ray.safetensors", ray="auto"))
    thread.join(HANG_S)
    assert len(stored) == IMAGES // BATCH
    assert dead
    assert 0 < dead[0][1] < len(stored), "nothing died in the middle"
    assert (tmp_path / "ray.safetensors").read_bytes() == (tmp_path / "local.safetensors").read_bytes()


@with_ray
@pytest.mark.slow
def test_an_interrupted_run_on_the_cluster_is_finished_here(place: Path, tmp_path: Path, ray_cluster: Any):
    from resnetrt.benchmarks.accuracy.outcomes import FileJournal

    bundle = Bundle.open(place / "tiny.bundle")
    run_gate(bundle, request(place, tmp_path / "local.safetensors"))
    add, calls = FileJournal.add, iter(range(100))

    def failing(self: FileJournal, part: Any) -> None:
        if next(calls) == 40:
            raise KeyboardInterrupt
        add(self, part)

    asked = request(place, tmp_path / "ray.safetensors", ray="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileJournal, "add", failing)
        with pytest.raises(KeyboardInterrupt):
            run_gate(bundle, asked)
    assert (tmp_path / "ray.safetensors.journal").exists()
    run_gate(bundle, request(place, tmp_path / "ray.safetensors"))
    assert (tmp_path / "ray.safetensors").read_bytes() == (tmp_path / "local.safetensors").read_bytes()


@with_ray
@pytest.mark.slow
def test_an_actors_error_is_the_drivers_error(place: Path, tmp_path: Path, ray_cluster: Any, monkeypatch):
    from resnetrt.benchmarks.cluster import evaluate as ray_run

    bundle = Bundle.open(place / "tiny.bundle")
    asked = request(place, tmp_path / "r", ray="auto")
    unlike = ray_run.runner_on_ray(bundle, asked, "eager", [], IMAGES, list("hash"))
    with pytest.raises(UsageError, match="expected eager as the reference on every node, found onnx-fp32 on "):
        list(unlike(0, BATCH))
    wrong = ray_run.runner_on_ray(bundle, asked, "onnx-fp32", [], IMAGES, "another hash")
    with pytest.raises(DataError, match="other images lie at this path on another node"):
        list(wrong(0, BATCH))
    monkeypatch.setenv("RESNETRT_THREADS", "2")
    with pytest.raises(UsageError, match="expected a node with 2 CPUs for an actor"):
        run_gate(bundle, request(place, tmp_path / "r", ray="auto", batch_size=500))


@with_ray
@pytest.mark.slow
def test_without_a_cluster_it_is_one_line(place: Path, tmp_path: Path):
    """In a process of its own, with a folder of its own: Ray remembers the address of an earlier cluster."""
    argv = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--ray", "auto"]
    command = [str(Path(sys.executable).parent / "resnetrt"), *argv]
    environment = os.environ | {"RAY_TMPDIR": str(tmp_path), "RESNETRT_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.returncode == 4
    assert "start one with: ray start --head" in done.stderr.splitlines()[-1]


def test_without_ray_it_is_one_line_and_exit_code_4(place: Path):
    code = "import sys; sys.modules['ray'] = None; from resnetrt.cli import run; sys.exit(run(sys.argv[1:]))"
    argv = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--ray", "auto"]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "pip install 'resnetrt[ray]'" in done.stderr
