"""No command reaches for the network, and none leaves files of its dependencies in the user's home."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.export.engines.compile import compile_variant

GUARD = Path(__file__).parent / "network_guard.py"
NAMESPACES = (("unshare", "--net"), ("unshare", "--net", "--map-root-user"))
Attempts = Callable[..., int]

# the pause is for what is sent by threads and forked processes
LOAD = "import sys, time; from resnetrt.runtime import load; load(sys.argv[1], sys.argv[2]).close(); time.sleep(1)"


def _is_allowed(namespace: tuple[str, ...]) -> bool:
    return subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    """Runs a command with an empty home and no network; how often it, or a process it started, tried to reach one."""
    alone = next(filter(_is_allowed, NAMESPACES), None)
    if alone is None:
        pytest.skip("a new network namespace is not allowed here")
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}  # it keeps its list of fonts

    def run(*command: object) -> int:
        done = subprocess.run(
            [*alone, sys.executable, GUARD, *map(str, command)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        record = json.loads(done.stdout)
        assert record["code"] == 0, done.stderr
        left = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
        assert left == [], "files in the user's home"
        return int(record["attempts"])

    return run


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket().connect_ex(('192.0.2.1', 80))",
        "subprocess.run([sys.executable, '-c', 'import socket; socket.getaddrinfo(\"example.com\", 80)'])",
    ],
)
def test_a_planted_attempt_is_seen(attempts: Attempts, code: str):
    assert attempts(sys.executable, "-c", f"import socket, subprocess, sys; {code}") > 0


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_loading_an_engine(attempts: Attempts, tmp_path: Path, backend: str):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    compile_variant(bundle, "fp32", backend)
    assert attempts(sys.executable, "-c", LOAD, bundle.path, f"{backend}-fp32-cpu") == 0


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "nncf"])
def test_packages_in_use_are_silent_after_an_import_of_ours(attempts: Attempts, package: str):
    pytest.importorskip(package)
    assert attempts(sys.executable, "-c", f"import resnetrt, {package}, time; time.sleep(1)") == 0


def test_doctor(attempts: Attempts):
    assert attempts(sys.executable, "-m", "resnetrt.cli", "doctor") == 0


@pytest.mark.slow
def test_export_and_deploy(attempts: Attempts, tmp_path: Path):
    command = [sys.executable, "-m", "resnetrt.cli"]
    assert attempts(*command, "export", "fashion_resnet20", "--out", tmp_path / "fashion.bundle") == 0
    data = ["--calib-data", "fashion_calib", "--eval-data", "fashion_test", "--samples", "64", "--eval-samples", "200"]
    assert attempts(*command, "deploy", "fashion_resnet20", *data, "--out", tmp_path / "deployed") == 0
