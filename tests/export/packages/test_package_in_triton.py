"""The packaged repository in a real Triton server.

RESNETRT_TRITON_DIR names the folder where the wheel of nvidia-pytriton 0.7.0 was unpacked (never installed: it wants
numpy 1). That server has the Python backend only, so the ONNX file is run by a `model.py`; layout, config, labels,
warm-up and batching are Triton's own.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.export.compilers import compile_variant
from resnetrt.export.packages import ServingOptions, package_triton
from resnetrt.runtime import load

pytestmark = pytest.mark.slow
FOLDER = os.environ.get("RESNETRT_TRITON_DIR", "")
LABELS = [f"class {index}" for index in range(10)]
START_S = 120.0

MODEL = """
import json, os, sys
sys.path.insert(0, SITE)  # PYTHONPATH does not reach this interpreter
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.here = os.path.join(args["model_repository"], args["model_version"])
        self.session = onnxruntime.InferenceSession(os.path.join(self.here, "model.onnx"))

    def execute(self, requests):
        # as_numpy() of this Triton gives wrong strides under numpy 2
        arrays = [np.from_dlpack(pb_utils.get_input_tensor_by_name(item, "input")) for item in requests]
        seen = [[len(a), float(a[0].sum())] for a in arrays]
        with open(os.path.join(self.here, "batches.jsonl"), "a") as file:
            file.write(json.dumps(seen) + "\\n")
        outputs = [self.session.run(["logits"], {"input": a})[0] for a in arrays]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("logits", out)]) for out in outputs]
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def use_python_backend(folder: Path) -> None:
    """The one change that this server needs: who runs the model's file."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    config.platform, config.backend, config.default_model_filename = "", "python", "model.py"
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    site = Path(np.__file__).parent.parent
    (folder / "1" / "model.py").write_text(MODEL.replace("SITE", repr(str(site))))


def backends_in(wheel: Path, folder: Path) -> Path:
    """The Python backend with the stub of this interpreter's version beside it."""
    place = folder / "python"
    shutil.copytree(wheel / "pytriton/tritonserver/backends/python", place)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "pytriton/tritonserver/python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        pytest.skip(f"this Triton has no Python backend for Python {version}")
    shutil.copy(stub, place)
    (place / stub.name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bundle, str, Path]]:
    """A bundle, the address of the Triton that serves it, and the model's folder."""
    pytest.importorskip("tritonclient.grpc", reason="the extra serve")
    if not FOLDER:
        pytest.skip("RESNETRT_TRITON_DIR names no unpacked nvidia-pytriton wheel")
    folder, wheel = tmp_path_factory.mktemp("real"), Path(FOLDER)
    bundle = tiny_bundle.make_bundle(folder / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    with bundle.edit() as editor:
        editor.manifest.labels = LABELS
    package_triton(bundle, folder / "model_repository", [], ServingOptions(max_batch_size=4))
    use_python_backend(folder / "model_repository" / "tiny")
    server = wheel / "pytriton/tritonserver/bin/tritonserver"
    server.chmod(0o755)
    ports = free_ports(3)
    flags = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    flags += [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    command = [
        str(server),
        f"--model-repository={folder / 'model_repository'}",
        f"--backend-directory={backends_in(wheel, folder / 'backends')}",
        "--allow-gpu-metrics=false",
        *flags,
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": str(wheel / "nvidia_pytriton.libs")}
    log = (folder / "triton.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{ports[0]}/v2"
    try:
        wait_until_ready(f"{address}/health/ready", process, folder / "triton.log")
        yield bundle, address, folder / "model_repository" / "tiny"
    finally:
        process.terminate()
        process.wait(START_S)
        log.close()


def wait_until_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.2)
    pytest.fail(log.read_text()[-4000:])


def ask(url: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(url, data, timeout=60) as answer:
            return json.load(answer)
    except HTTPError as error:
        pytest.fail(f"{url}: {error.code} {error.read().decode()}")


def test_triton_takes_the_config_as_it_is(served: tuple[Bundle, str, Path]):
    _, address, _ = served
    config = ask(f"{address}/models/tiny/config")
    assert config["max_batch_size"] == 4
    assert config["parameters"]["resnetrt_engine"]["string_value"] == "onnxruntime-fp32-cpu"
    metadata = ask(f"{address}/models/tiny")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]


def test_the_golden_image_warmed_it_up_at_every_batch_size(served: tuple[Bundle, str, Path]):
    _, _, folder = served
    first = np.frombuffer((folder / "warmup/golden-image").read_bytes(), np.float32)
    lines = [json.loads(line) for line in (folder / "1/batches.jsonl").read_text().splitlines()]
    assert [sum(size for size, _ in line) for line in lines[:2]] == [1, 4]
    assert all(total == pytest.approx(float(first.sum()), rel=1e-4) for line in lines[:2] for _, total in line)


def test_answers_and_labels_are_the_bundles(served: tuple[Bundle, str, Path]):
    bundle, address, _ = served
    images = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(3, 5))
    with load(bundle) as session:
        expected = session.infer(images)["logits"]
    tensor = {"name": "input", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    (output,) = ask(f"{address}/models/tiny/infer", {"inputs": [tensor]})["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, rtol=1e-5, atol=1e-5)
    wanted = [{"name": "logits", "parameters": {"classification": 1}}]
    (top,) = ask(f"{address}/models/tiny/infer", {"inputs": [tensor], "outputs": wanted})["outputs"]
    assert [text.split(":")[2] for text in top["data"]] == [LABELS[index] for index in expected.argmax(1)]
