"""Compiling variants into engines: what is stored, and that nothing is stored that was not checked."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle, create_bundle, sha256_of
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.errors import BackendMissing, BackendRefused, BundleError, CheckFailed, UsageError
from resnetrt.export.compilers import COMPILERS, find_compiler
from resnetrt.export.engines.compile import choose_variant, compile_variant, engine_id
from resnetrt.export.variants.outline import outline_file
from resnetrt.export.variants.parity import run_onnx
from resnetrt.export.variants.store import enter_variant
from resnetrt.golden import FILE, Golden
from resnetrt.manifest import InputSpec, Manifest, VariantRecord
from resnetrt.parity import sqnr_db
from resnetrt.preprocess import Preprocessing
from resnetrt.runtime import TensorSpec, load
from resnetrt.runtime.backends import BACKENDS

COMPILE_AND_REPORT = """
import sys
for absent in ("onnx", "onnx_ir", "torch"):
    sys.modules[absent] = None
from resnetrt.bundle import Bundle
from resnetrt.export.engines.compile import compile_variant
bundle = Bundle.open(sys.argv[1])
engine = compile_variant(bundle, "int8.cpu", sys.argv[2])
audit = bundle.read_json(f"engines/{engine}.json")["audit"]
print(audit.get("reason") or audit["share_by_precision"])
"""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.make_bundle(tmp_path_factory.mktemp("compilers") / "tiny.bundle")


@pytest.fixture
def bundle(pristine: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(pristine.path, tmp_path / "tiny.bundle")
    return Bundle.open(tmp_path / "tiny.bundle")


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def content(path: Path) -> dict[str, str]:
    """Every file below `path` with its hash."""
    return {file.relative_to(path).as_posix(): sha256_of(file) for file in path.rglob("*") if file.is_file()}


def pooled_bundle(path: Path) -> Bundle:
    """A convolution, an average pool whose last windows hang over the edge, a classifier that looks at positions."""
    rng = np.random.default_rng(3)
    corner = np.ones((8, 4, 4), np.float32)
    corner[:, :3, :3] = 0.2
    arrays = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b": rng.normal(0, 0.1, 8),
        "m": rng.normal(0, 0.1, (128, 10)) * corner.reshape(-1, 1),
        "c": np.zeros(10),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["input", "w", "b"], ["x"], "conv", strides=[3, 3]),
        onnx.helper.make_node("Relu", ["x"], ["y"], "relu"),
        onnx.helper.make_node(
            "AveragePool", ["y"], ["z"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1,
            count_include_pad=1,
        ),
        onnx.helper.make_node("Flatten", ["z"], ["flat"], "flatten"),
        onnx.helper.make_node("Gemm", ["flat", "m", "c"], ["logits"], "fc"),
    ]  # fmt: skip
    graph = onnx.helper.make_graph(
        nodes,
        "pooled",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 20, 20])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    recipe = Preprocessing("RGB", 20, (20, 20), (0.5, 0.4, 0.3), (0.25, 0.5, 0.2))
    frames = np.random.default_rng(4).integers(0, 256, (16, 20, 20, 3)).astype(np.uint8)
    images = recipe.normalize(frames)
    manifest = Manifest("pooled", {}, {}, InputSpec("input", (3, 20, 20)), "logits", 10, recipe)
    with create_bundle(path, manifest) as editor:
        fp32 = editor.new_path("fp32.onnx")
        onnx.save(model, str(fp32))
        logits = run_onnx(fp32, images, as_written=True)
        editor.write(FILE, Golden(frames, logits).to_bytes())
        enter_variant(editor, "fp32", VariantRecord("fp32.onnx", "fp32"), logits)
    bundle = Bundle.open(path)
    np.savez(path.parent / "images.npz", x=frames)
    calibrate_bundle(bundle, str(path.parent / "images.npz"), 16)
    quantize_variant(bundle, "cpu", QuantizeOptions(reduce_range=True))
    return bundle


def test_what_compiles_also_loads():
    assert set(COMPILERS) == set(BACKENDS)


class TestCompileVariant:
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_stores_engine_sidecar_and_evidence(self, bundle: Bundle, backend: str, precision: str):
        variant = choose_variant(bundle, backend, precision)
        name = compile_variant(bundle, variant, backend)
        assert name == f"{backend}-{precision}-cpu"
        reopened = Bundle.open(bundle.path)
        record = reopened.manifest.engines[name]
        assert (record.variant, record.sidecar) == (variant, f"engines/{name}.json")
        assert Path(record.file).stem == name
        assert {record.file, record.sidecar} <= set(reopened.manifest.files)
        sidecar = reopened.read_json(record.sidecar)
        assert sidecar["id"] == name
        assert (sidecar["backend"], sidecar["precision"], sidecar["target"]) == (backend, precision, "cpu")
        assert (sidecar["variant"], sidecar["dialect"]) == (
            variant,
            find_compiler(backend).DIALECT if precision == "int8" else None,
        )
        assert sidecar["variant_sha256"] == sha256_of(bundle.variant_file(variant))
        assert sidecar["inputs"] == [TensorSpec("input", "float32", (None, 3, 16, 16)).to_json()]
        assert sidecar["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [None, 10]}]
        assert list(sidecar["tools"]) == [backend]
        assert sidecar["built_on"]["architecture"]
        assert sidecar["parity"]["n"] == 20
        assert sidecar["parity"]["sqnr_db"] > (100 if precision == "fp32" else 25)
        assert sidecar["parity"]["tolerance"]
        assert sidecar["schema_version"] == 1
        assert reopened.read_engine(name).to_json() == sidecar

    def test_the_evidence_is_what_the_selftest_finds(self, bundle: Bundle, backend: str):
        name = compile_variant(bundle, choose_variant(bundle, backend, "int8"), backend)
        stored = bundle.read_json(f"engines/{name}.json")["parity"]
        with load(bundle, name) as session:
            assert session.selftest is not None
            assert session.selftest.to_json().items() <= stored.items()

    def test_an_engine_that_fails_is_refused_and_nothing_is_written(self, bundle: Bundle, backend: str):
        tiny_bundle.flip_bits(bundle, "fp32.onnx", tiny_bundle.weights()["conv.w"], 0x40, stride=10**9)
        before = content(bundle.path)
        with pytest.raises(CheckFailed, match=rf"engine {backend}-fp32-cpu: parity .* failed over 20 golden .*SQNR"):
            compile_variant(bundle, "fp32", backend)
        assert content(bundle.path) == before
        assert list(bundle.path.parent.iterdir()) == [bundle.path]
        assert bundle.manifest.engines == {}

    def test_an_int8_engine_that_does_not_compute_its_file_is_refused(self, tmp_path: Path, backend: str):
        """OpenVINO 2026.4 divides the last windows of a pool in ceil mode by other numbers of pixels than ONNX says."""
        bundle = pooled_bundle(tmp_path / "pooled.bundle")
        golden = Golden.of(bundle, "int8.cpu")
        assert golden.own is not None
        try:
            name = compile_variant(bundle, "int8.cpu", backend, min_share=0)
        except CheckFailed:
            assert backend == "openvino"
            return
        with load(bundle, name, selftest=False) as session:
            assert sqnr_db(golden.own, session.infer_frames(golden.frames)["logits"]) > 30

    def test_compiling_again_replaces(self, bundle: Bundle, backend: str):
        assert compile_variant(bundle, "fp32", backend) == compile_variant(bundle, "fp32", backend)
        assert len(Bundle.open(bundle.path).manifest.engines) == 1
        load(bundle).close()

    def test_an_unusual_variant_keeps_its_name(self, bundle: Bundle, backend: str):
        assert compile_variant(bundle, "int8.tensorrt", backend) == f"{backend}-int8.tensorrt-cpu"
        assert compile_variant(bundle, "fp32.frames", backend) == f"{backend}-fp32.frames-cpu"
        record = VariantRecord("mixed.onnx", "int8", dialect="cpu")
        frames = VariantRecord("f.onnx", "int8", input="uint8", dialect=find_compiler(backend).DIALECT)
        usual = choose_variant(bundle, backend, "int8")
        assert engine_id(f"{usual}.uint8", frames, backend, "cpu") == f"{backend}-int8-cpu-uint8"
        assert engine_id("mixed", record, backend, "cpu") == f"{backend}-mixed-cpu"

    def test_an_unreadable_variant_is_one_clear_error(self, bundle: Bundle, backend: str):
        with bundle.edit() as editor:
            editor.write("fp32.onnx", b"no model")
        with pytest.raises((BundleError, BackendRefused), match=r"can't (load|compile) fp32\.onnx") as caught:
            compile_variant(bundle, "fp32", backend)
        assert "\n" not in str(caught.value)

    def test_without_golden_images_there_is_no_engine(self, bundle: Bundle, backend: str):
        with bundle.edit() as editor:
            editor.remove(FILE)
        with pytest.raises(BundleError, match=r"no file golden\.safetensors"):
            compile_variant(bundle, "fp32", backend)
        assert Bundle.open(bundle.path).manifest.engines == {}

    def test_needs_neither_torch_nor_onnx(self, bundle: Bundle, backend: str):
        """And is audited like any other where the outline of its variant is stored, as in every bundle of today."""
        here = compile_variant(bundle, "int8.cpu", backend)
        audited = bundle.read_json(f"engines/{here}.json")["audit"]["share_by_precision"]
        command = [sys.executable, "-c", COMPILE_AND_REPORT, str(bundle.path), backend]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"{audited}\n"), done.stderr
        with Bundle.open(bundle.path).edit() as editor:
            editor.remove(outline_file("int8.cpu.onnx"))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "no outline is stored beside it" in done.stdout

    def test_an_unknown_option_is_refused(self, bundle: Bundle, backend: str):
        with pytest.raises(UsageError, match=f"unknown option of {backend} 'workspace'"):
            compile_variant(bundle, "fp32", backend, options={"workspace": 1})

    def test_an_unknown_target_is_refused(self, bundle: Bundle, backend: str):
        with pytest.raises(UsageError, match=f"unknown {backend} target 'sm86'"):
            compile_variant(bundle, "fp32", backend, target="sm86")

    def test_a_precision_it_can_not_run_is_refused(self, bundle: Bundle, backend: str):
        precision = {"onnxruntime": "fp16", "openvino": "fp8"}[backend]
        with bundle.edit() as editor:
            editor.manifest.variants["half"] = VariantRecord("fp32.onnx", precision)
        with pytest.raises(UsageError, match=rf"{backend} on cpu: expected precision .*, found {precision}"):
            compile_variant(bundle, "half", backend)


def test_unknown_names_suggest_the_known_ones(bundle: Bundle):
    with pytest.raises(UsageError, match=r"unknown backend 'openvno'; did you mean openvino\?"):
        compile_variant(bundle, "fp32", "openvno")
    with pytest.raises(UsageError, match=r"unknown variant .*int8.cpu"):
        compile_variant(bundle, "int8.cpuu", "openvino")


def test_the_variant_in_the_backends_dialect_is_chosen(bundle: Bundle, backend: str):
    assert (
        choose_variant(bundle, backend, "int8") == {"openvino": "int8.cpu", "onnxruntime": "int8.onnxruntime"}[backend]
    )
    assert choose_variant(bundle, backend, "fp32") == "fp32"
    with pytest.raises(UsageError, match=f"unknown precision of .* for {backend} 'fp4'; did you mean fp32"):
        choose_variant(bundle, backend, "fp4")


@pytest.mark.parametrize(
    ("input_type", "message"),
    [
        (
            "float32",
            "no int8 variant for {}; make one with: resnetrt calibrate .*, then resnetrt quantize BUNDLE --dialect {}$",
        ),
        ("uint8", "no int8 variant for {} takes uint8 frames; make .* quantize BUNDLE --dialect {} --input uint8$"),
    ],
)
def test_a_bundle_without_int8_says_how_to_make_it(bundle: Bundle, backend: str, input_type: str, message: str):
    with bundle.edit() as editor:
        for name in [name for name in editor.manifest.variants if name.startswith("int8")]:
            del editor.manifest.variants[name]
    with pytest.raises(UsageError, match=message.format(backend, find_compiler(backend).DIALECT)):
        choose_variant(bundle, backend, "int8", input_type)


def test_a_target_without_its_device_is_missing(bundle: Bundle):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendMissing, match="target cuda: expected the execution provider CUDAExecutionProvider"):
        compile_variant(bundle, "fp32", "onnxruntime", target="cuda")


def test_the_onnxruntime_engine_is_the_variant(bundle: Bundle):
    compiled = find_compiler("onnxruntime").compile_engine(bundle.file("int8.cpu.onnx"), "int8", "cpu", {})
    assert compiled.blob == bundle.file("int8.cpu.onnx").read_bytes()
    assert compiled.extension == "onnx"


def test_the_openvino_engine_gives_what_the_onnx_gives(bundle: Bundle):
    import openvino

    frames = tiny_bundle.frames(8)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    direct = openvino.Core().compile_model(bundle.file("int8.cpu.onnx"), "CPU", settings)
    expected = direct(tiny_bundle.PREPROCESSING.normalize(frames))[0]
    with load(bundle, compile_variant(bundle, "int8.cpu", "openvino")) as session:
        np.testing.assert_array_equal(session.infer_frames(frames)["logits"], expected)


def test_a_graph_that_openvino_can_not_take_is_no_usage_error(tmp_path: Path):
    """The reason is whole words from its beginning, without places in OpenVINO's source; the exit code is 4."""
    tensors = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3, 8, 8]) for name in ("input", "logits")]
    node = onnx.helper.make_node("Nothing", ["input"], ["logits"], domain="users")
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("users", 1)]
    graph = onnx.helper.make_graph([node], "net", tensors[:1], tensors[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), str(tmp_path / "net.onnx"))
    message = r"openvino can't compile net\.onnx: (?!Exception|Check).*No conversion rule .*users\.Nothing; try another"
    with pytest.raises(BackendRefused, match=message):
        find_compiler("openvino").compile_engine(tmp_path / "net.onnx", "fp32", "cpu", {})
