"""From a bundle to a session: what is checked, and what each fault says."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

import resnetrt.runtime
from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, BundleError, CheckFailed, UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines.compile import compile_variant
from resnetrt.golden import FILE, Golden
from resnetrt.runtime import load
from resnetrt.runtime.backends import BACKENDS, find_backend
from resnetrt.runtime.load import check_threads

# Makes a package impossible to import, then loads an engine that needs it.
LOAD_WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[3]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from resnetrt.errors import ResnetrtError
from resnetrt.runtime import load
try:
    load(sys.argv[1], sys.argv[2])
except ResnetrtError as error:
    print(error)
    sys.exit(error.exit_code)
"""

LOAD_AND_REPORT = """
import sys
import numpy as np
from resnetrt.runtime import load
with load(sys.argv[1], sys.argv[2]) as session:
    session.infer_frames(np.zeros((2, 16, 16, 3), np.uint8))
print(*(name for name in ("torch", "onnx", "onnx_ir", "onnxscript") if name in sys.modules))
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def rewrite_sidecar(bundle: Bundle, engine: str, **changes: object) -> None:
    name = bundle.manifest.engines[engine].sidecar
    with bundle.edit() as editor:
        editor.write_json(name, bundle.read_json(name) | changes)


def test_the_face_is_as_documented():
    assert resnetrt.runtime.__all__ == ["LayerTime", "Prediction", "Session", "TensorSpec", "load"]
    assert all(hasattr(resnetrt.runtime, name) for name in resnetrt.runtime.__all__)


class TestLoad:
    def test_selftest_leaves_its_numbers(self, shared_bundle: Bundle, backend: str):
        with load(shared_bundle.path, f"{backend}-fp32-cpu") as session:
            assert session.selftest is not None
            assert session.selftest.n == 20
            assert session.selftest.max_abs <= 1e-4
            assert session.record.precision == "fp32"

    @pytest.mark.parametrize("last", [False, True])  # OpenVINO's engines hold weights for batches and for single images
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_flipped_weight_bits_are_refused_by_the_selftest_alone(
        self, bundle: Bundle, backend: str, precision: str, last: bool
    ):
        engine = f"{backend}-{precision}-cpu"
        name = bundle.manifest.engines[engine].file
        if precision == "fp32":  # one exponent bit of one weight
            tiny_bundle.flip_bits(bundle, name, tiny_bundle.weights()["conv.w"], 0x40, 10**9, last)
        else:  # the sign bit of every fifth weight
            tiny_bundle.flip_bits(bundle, name, tiny_bundle.quantized_weight(bundle, "conv.w"), 0x80, 5, last)
        reopened = Bundle.open(bundle.path)  # its hashes are in order
        with pytest.raises(CheckFailed, match=rf"engine {engine}: .*(SQNR|cosine|NaN)") as caught:
            load(reopened, engine)
        assert "\n" not in str(caught.value)
        with load(reopened, engine, selftest=False) as session:
            assert session.selftest is None

    def test_without_selftest_the_log_says_so(
        self, shared_bundle: Bundle, backend: str, caplog: pytest.LogCaptureFixture
    ):
        with caplog.at_level(logging.WARNING, "resnetrt.runtime"):
            load(shared_bundle, f"{backend}-fp32-cpu", selftest=False).close()
        assert f"engine {backend}-fp32-cpu of {shared_bundle.path} is unchecked" in caplog.text

    def test_with_selftest_the_log_is_silent(
        self, shared_bundle: Bundle, backend: str, caplog: pytest.LogCaptureFixture
    ):
        load(shared_bundle, f"{backend}-fp32-cpu").close()
        assert caplog.records == []

    def test_a_changed_engine_file_is_refused_by_its_hash(self, bundle: Bundle, backend: str):
        engine = f"{backend}-fp32-cpu"
        path = bundle.file(bundle.manifest.engines[engine].file)
        blob = bytearray(path.read_bytes())
        blob[-1] ^= 1
        path.write_bytes(blob)
        with pytest.raises(BundleError, match="does not match its SHA-256"):
            load(bundle.path, engine)

    @pytest.mark.parametrize("keep", [0, 100, 5000])
    def test_a_damaged_engine_says_compile_again(self, bundle: Bundle, backend: str, keep: int):
        engine = f"{backend}-fp32-cpu"
        name = bundle.manifest.engines[engine].file
        with bundle.edit() as editor:
            editor.write(name, bundle.file(name).read_bytes()[:keep])
        with pytest.raises(BundleError, match=rf"engine {engine}: .*compile it again: .* --backend {backend}"):
            load(bundle, engine)

    def test_an_engine_of_an_older_variant_is_refused(self, bundle: Bundle, backend: str):
        with bundle.edit() as editor:
            editor.write("fp32.onnx", bundle.file("fp32.onnx").read_bytes() + b"\x00")
        with pytest.raises(BundleError, match=f"engine {backend}-fp32-cpu was compiled from an older variant fp32"):
            load(bundle, f"{backend}-fp32-cpu")

    @pytest.mark.parametrize("changes", [{"id": "another"}, {"backend": None}, {"tools": "many"}])
    def test_a_sidecar_of_something_else_is_refused(self, bundle: Bundle, backend: str, changes: dict[str, object]):
        rewrite_sidecar(bundle, f"{backend}-fp32-cpu", **changes)
        with pytest.raises(BundleError, match=f"does not describe engine {backend}-fp32-cpu"):
            load(bundle, f"{backend}-fp32-cpu")

    def test_a_sidecar_without_a_version_is_of_the_first(self, bundle: Bundle, backend: str):
        engine = f"{backend}-int8-cpu"
        name = bundle.manifest.engines[engine].sidecar
        stored = bundle.read_json(name)
        del stored["schema_version"]
        with bundle.edit() as editor:
            editor.write_json(name, stored)
        with load(bundle, engine) as session:
            assert session.record.to_json() == stored | {"schema_version": 1}

    def test_a_newer_sidecar_is_refused_in_one_line(self, bundle: Bundle, backend: str):
        rewrite_sidecar(bundle, f"{backend}-fp32-cpu", schema_version=2)
        message = rf"engines/{backend}-fp32-cpu\.json: schema_version 2 is newer than 1, .*; upgrade resnetrt$"
        with pytest.raises(BundleError, match=message) as caught:
            load(bundle, f"{backend}-fp32-cpu")
        assert "\n" not in str(caught.value)

    def test_golden_images_of_another_model_are_refused(self, bundle: Bundle, backend: str):
        golden = Golden.of(bundle)
        with bundle.edit() as editor:
            editor.write(FILE, Golden(golden.frames, golden.logits[:, :7]).to_bytes())
        with pytest.raises(CheckFailed, match=rf"engine {backend}-fp32-cpu: .*shape \(20, 7\), found \(20, 10\)"):
            load(bundle, f"{backend}-fp32-cpu")

    def test_no_golden_images_are_no_pass(self, bundle: Bundle, backend: str):
        golden = Golden.of(bundle)
        with bundle.edit() as editor:
            editor.write(FILE, Golden(golden.frames[:0], golden.logits[:0]).to_bytes())
        with pytest.raises(BundleError, match=r"golden\.safetensors: .*found uint8 \(0, 16, 16, 3\)"):
            load(bundle, f"{backend}-fp32-cpu")

    def test_an_engine_without_the_output_is_refused(self, bundle: Bundle, backend: str):
        with bundle.edit() as editor:
            editor.manifest.output = "probabilities"
        with pytest.raises(CheckFailed, match="expected an output named probabilities, found logits"):
            load(bundle, f"{backend}-fp32-cpu")

    def test_a_missing_package_names_what_installs_it(self, shared_bundle: Bundle, backend: str):
        done = run(LOAD_WITHOUT, str(shared_bundle.path), f"{backend}-fp32-cpu", backend)
        install = {"onnxruntime": "pip install onnxruntime", "openvino": "pip install 'resnetrt[openvino]'"}[backend]
        assert done.returncode == 4, done.stderr
        assert done.stdout == f"backend {backend}: the package {backend} is not installed; run: {install}\n"

    def test_loads_neither_torch_nor_onnx(self, shared_bundle: Bundle, backend: str):
        done = run(LOAD_AND_REPORT, str(shared_bundle.path), f"{backend}-int8-cpu")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == []

    def test_an_engine_of_fixed_batch_takes_that_batch_only(self, bundle: Bundle, backend: str, tmp_path: Path):
        tiny_bundle.write_onnx(tmp_path / "fixed.onnx", batch=3)
        compiled = find_compiler(backend).compile_engine(tmp_path / "fixed.onnx", "fp32", "cpu", {})
        engine = f"{backend}-fp32-cpu"
        record = bundle.manifest.engines[engine]
        with bundle.edit() as editor:
            editor.write(record.file, compiled.blob)
            editor.write_json(record.sidecar, bundle.read_json(record.sidecar) | compiled.details)
        with load(bundle, engine) as session:
            assert session.selftest is not None
            assert session.selftest.n == 20
            assert session.inputs[0].shape == (3, 3, 16, 16)
            with pytest.raises(UsageError, match=r"expected input float32 \(3, 3, 16, 16\), found float32 \(2, "):
                session.infer(np.zeros((2, 3, 16, 16), np.float32))


def test_the_only_engine_needs_no_name(bundle: Bundle):
    with bundle.edit() as editor:
        editor.manifest.engines = {"onnxruntime-fp32-cpu": bundle.manifest.engines["onnxruntime-fp32-cpu"]}
    with load(bundle) as session:
        assert session.record.id == "onnxruntime-fp32-cpu"


def test_an_unknown_engine_and_no_choice_are_usage_errors(shared_bundle: Bundle):
    with pytest.raises(UsageError, match="did you mean openvino-fp32-cpu"):
        load(shared_bundle, "openvino-fp23-cpu")
    with pytest.raises(UsageError, match="has 6 engines; choose with --engine"):
        load(shared_bundle)


def test_an_unknown_backend_is_a_usage_error(bundle: Bundle):
    rewrite_sidecar(bundle, "openvino-fp32-cpu", backend="openvyno")
    with pytest.raises(UsageError, match=r"unknown backend 'openvyno'; did you mean openvino\?"):
        load(bundle, "openvino-fp32-cpu")


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_threads_that_are_not_there_are_refused(shared_bundle: Bundle, threads: int):
    with pytest.raises(UsageError, match=rf"threads: expected 1 to \d+, the cores of this process, found {threads}"):
        load(shared_bundle, "onnxruntime-fp32-cpu", threads=threads)


def test_threads_default_to_the_setting(monkeypatch: pytest.MonkeyPatch, shared_bundle: Bundle, backend: str):
    monkeypatch.setenv("RESNETRT_THREADS", "1")
    assert check_threads(None) == 1
    with load(shared_bundle, f"{backend}-fp32-cpu") as session:
        assert session.threads == 1


def test_every_backend_loads_lazily():
    code = f"import sys; from resnetrt.runtime.backends import find_backend\nfor n in {list(BACKENDS)}: find_backend(n)"
    done = run(code + "\nprint(*(n for n in ('onnxruntime', 'openvino') if n in sys.modules))")
    assert (done.returncode, done.stdout.split()) == (0, [])


class TestOnnxRuntime:
    @pytest.mark.parametrize(("target", "provider"), [("cuda", "CUDA"), ("trt-ep", "Tensorrt")])
    def test_compiling_for_a_gpu_that_is_not_there_is_one_line(self, bundle: Bundle, target: str, provider: str):
        before = dict(bundle.manifest.engines)
        message = f"onnxruntime, target {target}: expected the execution provider {provider}ExecutionProvider, found "
        with pytest.raises(BackendMissing, match=message) as caught:
            compile_variant(bundle, "fp32", "onnxruntime", target)
        assert "\n" not in str(caught.value)
        assert bundle.manifest.engines == before

    def test_a_provider_that_is_not_there_is_missing(self, bundle: Bundle):
        rewrite_sidecar(bundle, "onnxruntime-fp32-cpu", target="cuda")
        with pytest.raises(BackendMissing, match="expected the execution provider CUDAExecutionProvider, found"):
            load(bundle, "onnxruntime-fp32-cpu")

    def test_tf32_is_forbidden_on_cuda(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
        import onnxruntime

        names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        asked: list[object] = []

        def session(*_: object, providers: object, **__: object) -> None:
            asked.append(providers)
            raise RuntimeError("no GPU")

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        rewrite_sidecar(bundle, "onnxruntime-fp32-cpu", target="cuda")
        with pytest.raises(BundleError, match="no GPU"):
            load(bundle, "onnxruntime-fp32-cpu")
        told = [{"use_tf32": "0", "enable_cuda_graph": "1"}, {"use_tf32": "0"}]
        assert asked == [[("CUDAExecutionProvider", each), ("CPUExecutionProvider", {})] for each in told]

    @pytest.mark.filterwarnings("ignore:Specified provider")
    def test_a_silent_fall_back_to_the_cpu_is_an_error(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
        import onnxruntime

        names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        rewrite_sidecar(bundle, "onnxruntime-fp32-cpu", target="cuda")
        with pytest.raises(BackendMissing, match="CUDAExecutionProvider, found CPUExecutionProvider"):
            load(bundle, "onnxruntime-fp32-cpu")


class TestOpenVino:
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_single_images_have_a_compiled_model_of_their_own(self, shared_bundle: Bundle, precision: str):
        images = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
        with load(shared_bundle, f"openvino-{precision}-cpu") as session:
            graphs = session.execution_graphs()
            shapes = {batch: str(graph.inputs[0].get_partial_shape()[0]) for batch, graph in graphs.items()}
            alone = np.concatenate([session.infer(images[i : i + 1])["logits"] for i in range(5)])
            together = session.infer(images)["logits"]
            names = [[layer.name for layer in session.profile(images[:n], runs=1)] for n in (1, 5)]
        assert shapes == {None: "?", 1: "1"}
        assert all(names), "each batch is profiled in the model that runs it"
        np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)

    def test_another_version_says_compile_again(self, bundle: Bundle):
        rewrite_sidecar(bundle, "openvino-int8-cpu", tools={"openvino": "2024.6.0-1-x"})
        with pytest.raises(
            BundleError, match=r"built by OpenVINO 2024.6.0-1-x, this is 20.*; compile it again: .* --precision int8"
        ):
            load(bundle, "openvino-int8-cpu")

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ([{"batch": None, "size": 10}], r"expected an integer as parts\[0\]\.offset, found nothing"),
            ([{"batch": "1", "offset": 0, "size": 10}], r"expected an integer as parts\[0\]\.batch, found \"1\""),
            (3, "expected a list as parts, found 3"),
        ],
    )
    def test_parts_of_another_type_are_one_line(self, bundle: Bundle, parts: object, message: str):
        rewrite_sidecar(bundle, "openvino-fp32-cpu", parts=parts)
        with pytest.raises(BundleError, match=f"engine openvino-fp32-cpu: {message}; compile the engine again$"):
            load(bundle, "openvino-fp32-cpu")

    def test_another_cpu_says_compile_again(self, shared_bundle: Bundle):
        code = LOAD_WITHOUT.replace("sys.argv[3]", "'nothing'")
        done = run(code, str(shared_bundle.path), "openvino-int8-cpu", ONEDNN_MAX_CPU_ISA="SSE41")
        assert done.returncode == 4, done.stderr
        assert "built for a CPU with" in done.stdout
        assert "compile it again" in done.stdout
        assert len(done.stdout.splitlines()) == 1

    def test_fp32_is_not_run_in_bf16(self, shared_bundle: Bundle):
        with load(shared_bundle, "openvino-fp32-cpu") as session:
            layers = session.profile(np.zeros((8, 3, 16, 16), np.float32), runs=1)
        assert {layer.precision for layer in layers} == {"fp32"}

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_a_half_precision_runs_as_asked_or_not_at_all(self, shared_bundle: Bundle, tmp_path: Path, precision: str):
        try:
            compiled = find_compiler("openvino").compile_engine(shared_bundle.file("fp32.onnx"), precision, "cpu", {})
        except BackendMissing as error:
            pytest.skip(str(error))
        (tmp_path / "engine.blob").write_bytes(compiled.blob)
        record = compiled.record(f"openvino-{precision}-cpu", "openvino", precision, "cpu")
        with find_backend("openvino").load(tmp_path / "engine.blob", record, 1) as session:
            layers = session.profile(np.zeros((8, 3, 16, 16), np.float32), runs=1)
        assert {layer.precision for layer in layers if layer.op == "Convolution"} == {precision}

    def test_a_precision_that_the_cpu_lacks_is_refused(self, shared_bundle: Bundle):
        code = """
import json, sys
from pathlib import Path
from resnetrt.errors import ResnetrtError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.compilers import find_compiler
try:
    find_compiler("openvino").compile_engine(Path(sys.argv[1]), "fp16", "cpu", {})
except ResnetrtError as error:
    print(json.dumps([error.exit_code, str(error)]))
"""
        done = run(code, str(shared_bundle.file("fp32.onnx")), ONEDNN_MAX_CPU_ISA="AVX2")
        expected = "variant fp32.onnx: this CPU can't compute in fp16 with OpenVINO; use another precision"
        assert json.loads(done.stdout) == [4, expected], done.stderr
