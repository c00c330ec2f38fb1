"""The packaged repository in a real Triton server, see `triton_oracle`.

That server has the Python backend only, so the ONNX file is run by a `model.py`; layout, config, labels, warm-up and
batching are Triton's own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import tiny_bundle
import triton_oracle

from resnetrt.bundle import Bundle
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.packages import ServingOptions, package_triton
from resnetrt.runtime import load

pytestmark = pytest.mark.slow
LABELS = [f"class {index}" for index in range(10)]

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


def use_python_backend(folder: Path) -> None:
    """The one change that this server needs: who runs the model's file."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    config.platform, config.backend, config.default_model_filename = "", "python", "model.py"
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    site = Path(np.__file__).parent.parent
    (folder / "1" / "model.py").write_text(MODEL.replace("SITE", repr(str(site))))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bundle, str, Path]]:
    """A bundle, the address of the Triton that serves it, and the model's folder."""
    pytest.importorskip("tritonclient.grpc", reason="the extra serve")
    if reason := triton_oracle.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("real")
    bundle = tiny_bundle.make_bundle(folder / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    with bundle.edit() as editor:
        editor.manifest.labels = LABELS
    package_triton(bundle, folder / "model_repository", [], ServingOptions(max_batch_size=4))
    use_python_backend(folder / "model_repository" / "tiny")
    with triton_oracle.serve_repository(folder) as (http, _grpc):
        yield bundle, f"http://{http}/v2", folder / "model_repository" / "tiny"


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
