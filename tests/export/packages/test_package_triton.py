"""The packaged model repository: read back, complete, whole or absent."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle, sha256_of
from resnetrt.cli import run
from resnetrt.errors import UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.packages import ServingOptions, package_triton
from resnetrt.golden import Golden

pytest.importorskip("tritonclient.grpc", reason="the extra serve")
FP32, INT8, FRAMES = "onnxruntime-fp32-cpu", "onnxruntime-int8-cpu", "onnxruntime-fp32.frames-cpu"
LABELS = [f"class {index}" for index in range(10)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle with labels and engines of both CPU backends; not to be changed."""
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("package") / "tiny.bundle")
    for backend in ("onnxruntime", "openvino"):
        for variant in ("fp32", "int8.onnxruntime" if backend == "onnxruntime" else "int8.cpu"):
            compile_variant(bundle, variant, backend)
    compile_variant(bundle, "fp32.frames", "onnxruntime")
    with bundle.edit() as editor:
        editor.manifest.labels = LABELS
    return bundle


def read_config(folder: Path):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_the_config_is_read_back_with_everything_in_it(made: Bundle, tmp_path: Path):
    options = ServingOptions(16, (4, 8), 500, 2)
    (model,) = package_triton(made, tmp_path / "model_repository", [INT8], options)
    config = read_config(tmp_path / "model_repository" / "tiny")
    assert (config.name, config.platform, config.backend) == ("tiny", "onnxruntime_onnx", "")
    assert (config.max_batch_size, config.default_model_filename) == (16, "model.onnx")
    (tensor,), (output,) = config.input, config.output
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("input", 11, [3, 16, 16])  # TYPE_FP32
    assert (output.name, list(output.dims), output.label_filename) == ("logits", [10], "labels.txt")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert not config.dynamic_batching.HasField("default_queue_policy")
    (group,) = config.instance_group
    assert (group.kind, group.count) == (2, 2)  # KIND_CPU
    assert {key: item.string_value for key, item in config.parameters.items()} == {
        "resnetrt_bundle": "tiny",
        "resnetrt_engine": INT8,
        "resnetrt_manifest_sha256": sha256_of(made.path / "manifest.json"),
    }
    assert [sample.batch_size for sample in config.model_warmup] == [1, 16]
    assert model.to_json()["path"] == str(tmp_path / "model_repository" / "tiny")


def test_the_files_are_the_bundles(made: Bundle, tmp_path: Path):
    package_triton(made, tmp_path / "r", [INT8], ServingOptions())
    folder = tmp_path / "r" / "tiny"
    engine = made.manifest.engines[INT8]
    assert (folder / "1" / "model.onnx").read_bytes() == made.file(engine.file).read_bytes()
    assert (folder / "1" / "manifest.json").read_bytes() == (made.path / "manifest.json").read_bytes()
    assert (folder / "labels.txt").read_text().splitlines() == LABELS
    image = np.frombuffer((folder / "warmup" / "golden-image").read_bytes(), np.float32).reshape(1, 3, 16, 16)
    np.testing.assert_array_equal(image, tiny_bundle.PREPROCESSING.normalize(Golden.of(made).frames[:1]))


def test_openvino_compiles_the_variant_itself(made: Bundle, tmp_path: Path):
    package_triton(made, tmp_path / "r", ["openvino-int8-cpu"], ServingOptions())
    config = read_config(tmp_path / "r" / "tiny")
    assert (config.platform, config.backend, config.default_model_filename) == ("", "openvino", "model.onnx")
    assert (tmp_path / "r/tiny/1/model.onnx").read_bytes() == made.variant_file("int8.cpu").read_bytes()


def test_an_engine_for_frames_takes_bytes(made: Bundle, tmp_path: Path):
    package_triton(made, tmp_path / "r", [FRAMES], ServingOptions())
    config = read_config(tmp_path / "r" / "tiny")
    assert (config.input[0].data_type, list(config.input[0].dims)) == (2, [16, 16, 3])  # TYPE_UINT8
    assert len((tmp_path / "r/tiny/warmup/golden-image").read_bytes()) == 16 * 16 * 3


def edit_sidecar(made: Bundle, tmp_path: Path, **changes: object) -> Bundle:
    import shutil

    shutil.copytree(made.path, tmp_path / "changed.bundle")
    bundle = Bundle.open(tmp_path / "changed.bundle")
    name = bundle.manifest.engines[FP32].sidecar
    with bundle.edit() as editor:
        editor.write_json(name, bundle.read_json(name) | changes)
    return bundle


def test_a_tensorrt_plan_is_for_its_gpu_and_within_its_profile(made: Bundle, tmp_path: Path):
    profile = {"input": "", "min": [1], "opt": [4], "max": [6]}
    bundle = edit_sidecar(made, tmp_path, backend="tensorrt", target="sm120", options={"profiles": [profile]})
    package_triton(bundle, tmp_path / "r", [FP32], ServingOptions(32, (4, 8)))
    config = read_config(tmp_path / "r" / "tiny")
    assert (config.platform, config.instance_group[0].kind) == ("tensorrt_plan", 1)  # KIND_GPU
    assert dict(config.cc_model_filenames) == {"12.0": "model.plan"}
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (6, [4])
    assert (tmp_path / "r/tiny/1/model.plan").is_file()


@pytest.mark.parametrize(
    ("profiles", "asked", "batch", "used"),
    [
        (((1, 1), (1, 32)), 32, 32, ["0", "1"]),
        (((1, 32), (64, 64)), 64, 32, ["0"]),
        (((1, 1), (2, 8), (9, 32)), 16, 16, ["0", "1", "2"]),
        (((1, 1), (2, 8), (9, 32)), 8, 8, ["0", "1"]),
        (((1, 32),), 64, 32, []),
    ],
)
def test_several_profiles_are_named_up_to_the_first_gap(made, tmp_path: Path, profiles, asked, batch, used):
    stored = [{"input": "input", "min": [low], "opt": [low], "max": [high]} for low, high in profiles]
    bundle = edit_sidecar(made, tmp_path, backend="tensorrt", target="sm86", options={"profiles": stored})
    package_triton(bundle, tmp_path / "r", [FP32], ServingOptions(asked))
    config = read_config(tmp_path / "r" / "tiny")
    assert (config.max_batch_size, list(config.instance_group[0].profile)) == (batch, used)


def test_the_gpus_are_named_and_only_for_what_runs_on_one(made: Bundle, tmp_path: Path):
    """Triton then makes `count` instances on each; a CPU group that names GPUs it refuses."""
    bundle = edit_sidecar(made, tmp_path, backend="tensorrt", target="sm86")
    package_triton(bundle, tmp_path / "r", [FP32], ServingOptions(instances=2, gpus=(0, 3)))
    (group,) = read_config(tmp_path / "r" / "tiny").instance_group
    assert (group.count, list(group.gpus)) == (2, [0, 3])
    with pytest.raises(
        UsageError, match=f"engine {FP32}: --gpus: expected an engine that runs on a GPU, found one for"
    ):
        package_triton(made, tmp_path / "cpu", [FP32], ServingOptions(gpus=(0,)))


def test_profiles_that_take_no_single_image_are_refused(made: Bundle, tmp_path: Path):
    stored = [{"input": "input", "min": [8], "opt": [8], "max": [8]}]
    bundle = edit_sidecar(made, tmp_path, backend="tensorrt", target="sm86", options={"profiles": stored})
    with pytest.raises(UsageError, match=r"expected a profile that takes one image, .* found 8 to 8; compile"):
        package_triton(bundle, tmp_path / "r", [FP32], ServingOptions())


def test_a_version_compatible_plan_names_the_flag_of_the_server(made: Bundle, tmp_path: Path, capsys):
    options = {"profiles": [{"input": "", "min": [1], "opt": [4], "max": [6]}], "version_compatible": True}
    bundle = edit_sidecar(made, tmp_path, backend="tensorrt", target="sm86", options=options)
    (model,) = package_triton(bundle, tmp_path / "r", [FP32], ServingOptions())
    assert model.to_json()["server_flags"] == ("--backend-config=tensorrt,version-compatible=true",)
    argv = ["package", "triton", str(bundle.path), "--out", str(tmp_path / "models"), "--engine", FP32]
    assert run(argv) == 0
    assert "models --backend-config=tensorrt,version-compatible=true\n" in capsys.readouterr().out


def test_an_engine_of_one_batch_size_is_not_batched(made: Bundle, tmp_path: Path):
    inputs = [{"name": "input", "dtype": "float32", "shape": [4, 3, 16, 16]}]
    outputs = [{"name": "logits", "dtype": "float32", "shape": [4, 10]}]
    bundle = edit_sidecar(made, tmp_path, inputs=inputs, outputs=outputs)
    package_triton(bundle, tmp_path / "r", [FP32], ServingOptions())
    config = read_config(tmp_path / "r" / "tiny")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [4, 3, 16, 16])
    assert not config.HasField("dynamic_batching")
    assert len((tmp_path / "r/tiny/warmup/golden-image").read_bytes()) == 4 * 3 * 16 * 16 * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "tensorrt_rtx", "target": "sm86"},
        {"backend": "openvino", "precision": "fp16"},
        {"target": "trt-ep"},
    ],
)
def test_what_triton_would_not_run_as_asked_is_refused(made: Bundle, tmp_path: Path, changes: dict[str, object]):
    bundle = edit_sidecar(made, tmp_path, **changes)
    with pytest.raises(UsageError, match="expected one that Triton runs"):
        package_triton(bundle, tmp_path / "r", [FP32], ServingOptions())
    assert not (tmp_path / "r").exists()


def test_several_engines_stand_side_by_side_and_join_what_is_there(made: Bundle, tmp_path: Path):
    out = tmp_path / "r"
    (out / "other" / "1").mkdir(parents=True)
    models = package_triton(made, out, [FP32, INT8], ServingOptions())
    assert sorted(path.name for path in out.iterdir()) == ["other", f"tiny.{FP32}", f"tiny.{INT8}"]
    assert [model.engine for model in models] == [FP32, INT8]
    assert read_config(out / f"tiny.{INT8}").name == f"tiny.{INT8}"


def test_a_model_that_is_there_is_replaced_only_on_request(made: Bundle, tmp_path: Path):
    out = tmp_path / "r"
    package_triton(made, out, [FP32], ServingOptions())
    with pytest.raises(UsageError, match="a model tiny is there already; add --overwrite"):
        package_triton(made, out, [INT8], ServingOptions())
    assert read_config(out / "tiny").parameters["resnetrt_engine"].string_value == FP32
    package_triton(made, out, [INT8], ServingOptions(), overwrite=True)
    assert read_config(out / "tiny").parameters["resnetrt_engine"].string_value == INT8
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_fault_in_the_second_engine_leaves_nothing(made: Bundle, tmp_path: Path):
    bundle = edit_sidecar(made, tmp_path, target="trt-ep")
    with pytest.raises(UsageError):
        package_triton(bundle, tmp_path / "r", [INT8, FP32], ServingOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.bundle"]


def test_a_full_disk_leaves_nothing(made: Bundle, full_disk: Path):
    (full_disk / "fill").write_bytes(b"x" * (230 << 10))
    with pytest.raises(OSError, match="No space left"):
        package_triton(made, full_disk / "r", [FP32], ServingOptions())
    assert [path.name for path in full_disk.iterdir()] == ["fill"]


def test_no_folder_is_called_triton(made: Bundle, tmp_path: Path):
    with pytest.raises(UsageError, match="name it model_repository"):
        package_triton(made, tmp_path / "triton", [FP32], ServingOptions())
    bundle = Bundle(made.path, replace(made.manifest, name="triton"))
    (model,) = package_triton(bundle, tmp_path / "r", [FP32], ServingOptions())
    assert model.name == "model_triton"


def test_an_engine_s_name_does_not_lead_out_of_the_folder(made: Bundle, tmp_path: Path):
    """The names come from a manifest, which somebody else may have written."""
    bundle = Bundle.open(shutil.copytree(made.path, tmp_path / "copy.bundle"))
    entry, name = bundle.manifest.engines[FP32], "../../up"
    with bundle.edit() as editor:
        editor.write_json("engines/up.json", bundle.read_json(entry.sidecar) | {"id": name})
        editor.manifest.engines[name] = replace(entry, sidecar="engines/up.json")
    models = package_triton(bundle, tmp_path / "r", [FP32, name], ServingOptions())
    assert [model.name for model in models] == [f"tiny.{FP32}", "tiny..._.._up"]
    assert {path.name for path in (tmp_path / "r").iterdir()} == {model.name for model in models}


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"max_batch_size": 0}, "positive --max-batch-size"),
        ({"instances": 0}, "positive --max-batch-size"),
        ({"max_queue_delay_microseconds": -1}, "delay of at least 0"),
        ({"gpus": (0, 1, 0)}, "--gpus: expected different numbers from 0 on, found 0,1,0"),
        ({"gpus": (-1,)}, "--gpus: expected different numbers from 0 on, found -1"),
        ({"preferred_batch_size": (4, 16)}, "sizes from 1 to --max-batch-size 8, found 16"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object], match: str):
    with pytest.raises(UsageError, match=match):
        ServingOptions(**wrong)


def test_the_command_and_its_json(made: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import json

    argv = ["package", "triton", str(made.path), "--out", str(tmp_path / "r"), "--engine", INT8, "--json"]
    assert run([*argv, "--gpus", "0,1"]) == 2
    assert "expected an engine that runs on a GPU" in capsys.readouterr().err
    assert run(argv) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["name"], model["engine"], model["platform"]) == ("tiny", INT8, "onnxruntime_onnx")
    assert run(["package", "triton", str(made.path), "--out", str(tmp_path / "my models"), "--engine", INT8]) == 0
    assert f"tritonserver --model-repository='{tmp_path}/my models'\n" in capsys.readouterr().out


def test_without_the_extra_it_is_one_line_and_exit_code_4(made: Bundle, tmp_path: Path):
    code = "import sys; sys.modules['tritonclient'] = None; from resnetrt.cli import run; sys.exit(run(sys.argv[1:]))"
    argv = ["package", "triton", str(made.path), "--out", str(tmp_path / "r"), "--engine", INT8]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "pip install 'resnetrt[serve]'" in done.stderr
    assert not (tmp_path / "r").exists()
