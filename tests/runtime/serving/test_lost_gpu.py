"""`resnetrt serve`, the real command, on a TensorRT engine whose GPU dies; both are doubles."""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import bare_http
import double_machine
import numpy as np
import probes
import pytest
import tiny_bundle
from serving_process import WAIT_S, ServeProcess, serving
from tritonclient import http
from tritonclient.utils import InferenceServerException

from resnetrt.bundle import Bundle

LINE = (
    "resnetrt: model tiny: CUDA: host memory: an illegal memory access was encountered; "
    "this process can't use the GPU any more: end it and start it again"
)


@pytest.fixture
def server(labelled_bundle: Path, tmp_path: Path) -> Iterator[ServeProcess]:
    path = tmp_path / "tiny.bundle"
    shutil.copytree(labelled_bundle, path)
    double_machine.add_engine(Bundle.open(path))
    arguments = [path, "--engine", double_machine.ENGINE, "--instances", "2", "--max-batch-size", "4"]
    arguments += ["--model-control-mode", "explicit", "--exit-timeout-secs", "10"]
    program = [double_machine.__file__, str(path)]
    with serving(tmp_path / "log", arguments, program=program) as running:
        yield running


def infer(server: ServeProcess) -> np.ndarray:
    with http.InferenceServerClient(server.http, connection_timeout=WAIT_S, network_timeout=WAIT_S) as client:
        return client.infer(probes.MODEL, [probes.http_input(probes.IMAGES)]).as_numpy("logits")


def require_its_end(server: ServeProcess) -> None:
    """Not ready, if it still listens, then the one line that is no JSON, and the exit code of a missing device."""
    with contextlib.suppress(OSError):
        assert bare_http.request(server.http, "GET", "/v2/health/ready")[0] == 503
    assert server.process.wait(WAIT_S) == 4
    assert [line for line in server.log.read_text().splitlines() if not line.startswith("{")] == [LINE]
    assert server.logged()[-1]["message"] == "stopped"


def test_the_server_becomes_not_ready_and_ends_with_one_clear_line(server: ServeProcess):
    np.testing.assert_allclose(infer(server), tiny_bundle.reference(probes.IMAGES), rtol=0, atol=1e-4)
    server.process.send_signal(signal.SIGUSR1)
    with pytest.raises(InferenceServerException, match="illegal memory access") as caught:
        infer(server)
    assert caught.value.status() == "500"
    require_its_end(server)


def test_so_it_does_when_a_model_is_loaded_on_a_gpu_that_died_meanwhile(server: ServeProcess):
    """No loaded model knows of it then."""
    with http.InferenceServerClient(server.http) as client:
        client.unload_model(probes.MODEL)
        server.process.send_signal(signal.SIGUSR1)
        with pytest.raises(InferenceServerException, match=r"failed to load 'tiny': .*illegal memory access"):
            client.load_model(probes.MODEL)
    require_its_end(server)
