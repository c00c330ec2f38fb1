"""The InferenceService is YAML with what KServe needs, and lies beside the repository to upload."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.cli import run
from resnetrt.errors import UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.packages import ServiceOptions, ServingOptions, package_kserve

pytest.importorskip("tritonclient.grpc", reason="the extra serve")
yaml = pytest.importorskip("yaml", reason="PyYAML")
URI = "s3://models/tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("package") / "tiny.bundle")
    compile_variant(bundle, "fp32", "onnxruntime")
    return bundle


def test_the_service_runs_triton_over_v2(made: Bundle, tmp_path: Path):
    service = ServiceOptions(URI, min_replicas=0, max_replicas=3, cpu="500m")
    path, models = package_kserve(made, tmp_path, [], service, ServingOptions())
    record = yaml.safe_load(path.read_text())
    assert (record["apiVersion"], record["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert record["metadata"]["name"] == "tiny"
    predictor = record["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (0, 3)
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "triton", "version": "2"}
    assert (model["runtime"], model["protocolVersion"], model["storageUri"]) == ("kserve-tritonserver", "v2", URI)
    assert model["resources"]["limits"] == {"cpu": "500m", "memory": "4Gi"}
    assert (models[0].path / "config.pbtxt").is_file()
    assert models[0].path.parent == tmp_path / "model_repository"


@pytest.fixture
def on_gpu(made: Bundle, tmp_path: Path) -> Bundle:
    """A bundle whose engine is TensorRT's, by its sidecar."""
    shutil.copytree(made.path, tmp_path / "plan.bundle")
    bundle = Bundle.open(tmp_path / "plan.bundle")
    (entry,) = bundle.manifest.engines.values()
    changes = {"backend": "tensorrt", "target": "sm86", "options": {"version_compatible": True}}
    with bundle.edit() as editor:
        editor.write_json(entry.sidecar, bundle.read_json(entry.sidecar) | changes)
    return bundle


@pytest.mark.parametrize(("gpus", "asked"), [([], "1"), (["--gpus", "0,1"], "2")])
def test_a_pod_gets_the_gpus_that_its_instances_are_for(on_gpu: Bundle, tmp_path: Path, gpus: list[str], asked: str):
    argv = ["package", "kserve", str(on_gpu.path), "--out", str(tmp_path / "k"), "--storage-uri", URI]
    assert run([*argv, "--instances", "2", *gpus]) == 0
    model = yaml.safe_load((tmp_path / "k" / "inferenceservice.yaml").read_text())["spec"]["predictor"]["model"]
    assert {each["nvidia.com/gpu"] for each in model["resources"].values()} == {asked}
    config = (tmp_path / "k" / "model_repository" / "tiny" / "config.pbtxt").read_text()
    assert (config.count("gpus: "), "count: 2" in config) == (2 if gpus else 0, True)


def test_gpus_that_a_pod_does_not_number_so_are_refused(on_gpu: Bundle, tmp_path: Path):
    with pytest.raises(UsageError, match="--gpus: expected the numbers of a pod's own GPUs, as 0,1, found 2,3"):
        package_kserve(on_gpu, tmp_path / "k", [], ServiceOptions(URI), ServingOptions(gpus=(2, 3)))
    assert not (tmp_path / "k").exists()


def test_a_version_compatible_plan_passes_its_flag_to_the_server(on_gpu: Bundle, tmp_path: Path):
    path, _ = package_kserve(on_gpu, tmp_path / "k", [], ServiceOptions(URI), ServingOptions())
    model = yaml.safe_load(path.read_text())["spec"]["predictor"]["model"]
    assert model["args"] == ["--backend-config=tensorrt,version-compatible=true"]
    assert (model["modelFormat"]["name"], model["resources"]["limits"]["nvidia.com/gpu"]) == ("triton", "1")


def test_values_can_not_break_out_of_their_place(made: Bundle, tmp_path: Path):
    memory = 'x"\n  evil: true'
    path, _ = package_kserve(made, tmp_path, [], ServiceOptions(URI + "#{x}", memory=memory), ServingOptions())
    model = yaml.safe_load(path.read_text())["spec"]["predictor"]["model"]
    assert model["resources"]["requests"]["memory"] == memory
    assert model["storageUri"] == URI + "#{x}"


@pytest.mark.parametrize("name", ["Tiny", "9lives", "-x", "x-", "a" * 64, "a.b"])
def test_a_name_that_kubernetes_refuses_is_refused_first(made: Bundle, tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="--name: expected a Kubernetes name"):
        package_kserve(made, tmp_path / "k", [], ServiceOptions(URI, name), ServingOptions())
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"storage_uri": "/models"}, "--storage-uri"),
        ({"storage_uri": URI, "min_replicas": 2}, "replicas"),
        ({"storage_uri": URI, "min_replicas": 0, "max_replicas": 0}, "replicas"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object], match: str):
    with pytest.raises(UsageError, match=match):
        ServiceOptions(**wrong)


def test_the_command_and_its_exit_codes(made: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["package", "kserve", str(made.path), "--out", str(tmp_path / "k"), "--storage-uri", URI, "--json"]
    assert run(argv) == 0
    assert json.loads(capsys.readouterr().out)["service"] == str(tmp_path / "k" / "inferenceservice.yaml")
    assert run(argv) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert run([*argv, "--overwrite"]) == 0
