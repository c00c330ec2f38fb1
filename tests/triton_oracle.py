"""The real Triton Inference Server, started on a tiny bundle's network: what our server's answers are compared with.

It is taken from an unpacked wheel, never installed:

    pip download --no-deps nvidia-pytriton==0.7.0 && python -m zipfile -e nvidia_pytriton-*.whl DIR
    RESNETRT_TRITON_DIR=DIR pytest tests/runtime/serving

It has the python backend alone, so the network runs in a generated model.py, on ONNX Runtime.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "RESNETRT_TRITON_DIR"
_START_S, _STOP_S = 60, 10

_CONFIG = """
name: "tiny" backend: "python" max_batch_size: 8
input [ { name: "input" data_type: TYPE_FP32 dims: [ 3, 16, 16 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { }
"""

_MODEL = """
import os
import sys
sys.path[:0] = {paths!r}
import numpy
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        responses = []
        for request in requests:
            # through DLPack: this Triton was built for numpy 1, whose array header numpy 2 changed
            image = numpy.from_dlpack(pb_utils.get_input_tensor_by_name(request, "input"))
            (logits,) = self.session.run(["logits"], {{"input": image}})
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("logits", logits)]))
        return responses
"""


def why_not() -> str | None:
    """Why Triton can't be had here, or None."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return f"{VARIABLE} is not set; tests/triton_oracle.py says how to get Triton"
    if not (_package(folder) / "bin" / "tritonserver").is_file():
        return f"{VARIABLE}={folder}: no pytriton/tritonserver/bin/tritonserver in it"
    return None


def write_repository(folder: Path, onnx_file: Path, labels: list[str]) -> None:
    """The tiny network as a model repository of the python backend."""
    (folder / "tiny" / "1").mkdir(parents=True)
    (folder / "tiny" / "config.pbtxt").write_text(_CONFIG)
    (folder / "tiny" / "labels.txt").write_text("\n".join(labels) + "\n")
    (folder / "tiny" / "1" / "model.py").write_text(
        _MODEL.format(paths=[path for path in sys.path if path.endswith("site-packages")])
    )
    shutil.copy(onnx_file, folder / "tiny" / "1" / "model.onnx")


@contextmanager
def triton(work: Path, onnx_file: Path, labels: list[str]) -> Iterator[tuple[str, str]]:
    """HTTP and gRPC address of a running Triton that serves the tiny network."""
    write_repository(work / "model_repository", onnx_file, labels)
    with serve_repository(work) as addresses:
        yield addresses


@contextmanager
def serve_repository(work: Path) -> Iterator[tuple[str, str]]:
    """HTTP and gRPC address of a running Triton that serves model `tiny` of `work/model_repository`.

    Its log is `work/triton.log`.
    """
    package = _package(os.environ[VARIABLE])
    backends = work / "backends" / "python"
    shutil.copytree(package / "backends" / "python", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = backends / "triton_python_backend_stub"
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", stub)
    for program in (stub, package / "bin" / "tritonserver"):
        program.chmod(0o755)
    http, grpc, metrics = _free_ports(3)
    command = [str(package / "bin" / "tritonserver"), f"--model-repository={work / 'model_repository'}"]
    command += [f"--backend-directory={work / 'backends'}", "--model-control-mode=explicit", "--load-model=tiny"]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--allow-gpu-metrics=false"]
    command += [f"--{part}-address=127.0.0.1" for part in ("http", "grpc", "metrics")]
    libraries = [str(package.parent.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}
    with (work / "triton.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _await(process, http, work / "triton.log")
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:  # it waits for connections that its clients keep
            process.kill()
            process.wait()


def _package(folder: str) -> Path:
    return Path(folder).absolute() / "pytriton" / "tritonserver"


def _free_ports(count: int) -> list[int]:
    places = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [place.getsockname()[1] for place in places]
    for place in places:
        place.close()
    return ports


def _await(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    import bare_http

    for _ in range(_START_S * 10):
        if process.poll() is not None:
            break
        try:
            if bare_http.request(f"127.0.0.1:{port}", "GET", "/v2/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Triton did not become ready:\n{log.read_text(errors='replace')[-3000:]}")
