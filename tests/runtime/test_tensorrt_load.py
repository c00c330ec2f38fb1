"""What is checked before TensorRT sees an engine file: each fault is one sentence, never a crash."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from engine_double import VERSION, fake_tensorrt
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BackendMissing, BundleError, CheckFailed, ResnetrtError
from resnetrt.manifest import EngineEntry
from resnetrt.runtime import load
from resnetrt.runtime.backends import tensorrt, tensorrt_library
from resnetrt.runtime.cuda.device import Device, find_devices
from resnetrt.runtime.cuda.protocol import is_pinned
from resnetrt.runtime.load import load_another
from resnetrt.runtime.stream import Batcher, BatchOptions


def record(backend: str = "tensorrt", target: str = "sm86", **options: Any) -> EngineRecord:
    about = EngineRecord(f"{backend}-fp32-{target}", backend, "fp32", target, variant="fp32")
    return replace(about, tools={backend: VERSION}, options=options)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, shared_bundle: Bundle) -> HostCuda:
    """A machine that seems to have an sm86 and TensorRT 10.9."""
    cuda = HostCuda()
    monkeypatch.setattr(tensorrt_library, "find_devices", lambda: ((Device(0, (8, 6)),), ""))
    monkeypatch.setattr(tensorrt, "open_cuda", lambda *_: cuda)
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(shared_bundle.variant_file("fp32"), cuda))
    return cuda


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    (tmp_path / "m.engine").write_bytes(b"engine")
    return tmp_path / "m.engine"


def test_a_fitting_engine_is_loaded(gpu: HostCuda, engine_file: Path):
    with tensorrt.load(engine_file, record(), 1) as session:
        batch = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(2))
        expected = tiny_bundle.reference(batch)
        np.testing.assert_allclose(session.infer(batch)["logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "kind", "message"),
    [
        (
            record(target="sm89"),
            BundleError,
            r"engine tensorrt-fp32-sm89: built for compute capability 8\.9, this GPU has 8\.6; compile it again: .* "
            r"--target sm86$",
        ),
        (record(target="sm120+sm89"), BundleError, r"built for compute capability 12\.0, 8\.9, this GPU has 8\.6"),
        (
            replace(record(), tools={"tensorrt": "10.8.0.1"}),
            BundleError,
            r"built by tensorrt 10\.8\.0\.1, this is tensorrt 10\.9",
        ),
        (replace(record(), tools={}), BundleError, "its sidecar does not say which tensorrt built it"),
        (
            replace(record(version_compatible=True), tools={"tensorrt": "9.3.0"}),
            BundleError,
            r"built by tensorrt 9\.3\.0, this is tensorrt 10\.9",
        ),
        (
            record("tensorrt_rtx"),
            BackendMissing,
            r"engine tensorrt_rtx-fp32-sm86: none of these imports: tensorrt_rtx",
        ),
    ],
)
def test_a_wrong_engine_is_one_sentence(
    gpu: HostCuda, engine_file: Path, engine: EngineRecord, kind: type[ResnetrtError], message: str
):
    with pytest.raises(kind, match=message) as caught:
        tensorrt.load(engine_file, engine, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "engine",
    [
        record(target="sm80", hardware_compatible="ampere_plus"),
        replace(record(version_compatible=True), tools={"tensorrt": "10.3.0.26"}),
        record(target="sm89+sm86"),
        replace(
            record(), target="portable", details={"tensorrt": {"compute_capabilities": [80, 86], "portable": True}}
        ),
    ],
)
def test_compatible_engines_are_taken(gpu: HostCuda, engine_file: Path, engine: EngineRecord):
    tensorrt.load(engine_file, engine, 1).close()


@pytest.mark.parametrize(
    ("built", "here", "compatible", "taken"),
    [
        ("10.14.1.48", "10.14.1.48.post1", False, True),
        ("10.14.1.48.post1", "10.14.1.48", False, True),
        ("10.3.0", "10.3.0.26", False, True),
        ("10.14.1.48", "10.14.1.49.post1", False, False),
        ("10.14", "10.14.1.48", False, False),
        ("unknown", "10.14.1.48", False, False),
        ("10.14.1.48.post1", "10.14.1.48", True, True),
        ("10.3.0.26", "11.4.0.106", True, True),
        ("10.3.0.26", "11.4.0.106", False, False),
        ("8.6.1", "10.16.1.11", True, True),
        ("8.6.1", "11.0.0.114", True, False),
        ("11.0.0.114", "10.16.1.11", True, False),
        ("11.4.0.106", "11.0.0.114", True, False),
    ],
)
def test_which_versions_take_an_engine(
    gpu: HostCuda,
    engine_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    built: str,
    here: str,
    compatible: bool,
    taken: bool,
):
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", here)
    engine = replace(record(version_compatible=compatible), tools={"tensorrt": built})
    if taken:
        tensorrt.load(engine_file, engine, 1).close()
    else:
        with pytest.raises(BundleError, match=rf"built by tensorrt {built}, this is tensorrt {here}"):
            tensorrt.load(engine_file, engine, 1)


def test_the_first_logged_error_is_told(gpu: HostCuda, tmp_path: Path):
    (tmp_path / "m.engine").write_bytes(b"eng")
    with pytest.raises(
        BundleError, match=r"TensorRT can't load it: Serialization assertion .* failed\.; compile it again"
    ):
        tensorrt.load(tmp_path / "m.engine", record(), 1)


def test_what_tensorrt_warns_of_is_kept(gpu: HostCuda, engine_file: Path, caplog: pytest.LogCaptureFixture):
    text = "Using an engine plan file across different models of devices is not recommended."
    sys.modules["tensorrt"].Runtime.warns = text
    tensorrt.load(engine_file, record(), 1).close()
    assert [item.getMessage() for item in caplog.records] == [f"engine tensorrt-fp32-sm86: TensorRT warns: {text}"]


def test_h100_and_rtx_is_one_sentence(gpu: HostCuda, engine_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorrt_library, "find_devices", lambda: ((Device(0, (9, 0)),), ""))
    with pytest.raises(
        BackendMissing, match=r"does not run on compute capability 9\.0 \(H100, H200\); use the backend"
    ):
        tensorrt.load(engine_file, record("tensorrt_rtx"), 1)


class TestLeanRuntimes:
    @pytest.fixture
    def lean_only(self, gpu: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt_lean", sys.modules["tensorrt"])
        monkeypatch.setitem(sys.modules, "tensorrt", None)

    @pytest.mark.usefixtures("lean_only")
    def test_take_version_compatible_engines(self, engine_file: Path):
        tensorrt.load(engine_file, record(version_compatible=True), 1).close()

    @pytest.mark.usefixtures("lean_only")
    def test_refuse_others(self, engine_file: Path):
        with pytest.raises(
            BundleError, match=r"tensorrt_lean .* loads version-compatible engines only, this one is not"
        ):
            tensorrt.load(engine_file, record(), 1)


def test_without_a_device_the_library_is_not_even_imported(tmp_path: Path):
    """On the machine as it is; TensorRT's lean runtime would crash the process here."""
    if find_devices()[0]:
        pytest.skip("there is a device")
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import ResnetrtError
from resnetrt.runtime.backends import find_backend
backend = sys.argv[1]
try:
    find_backend(backend).load(Path("nothing"), EngineRecord(f"{backend}-fp32-sm86", backend, "fp32", "sm86"), 1)
except ResnetrtError as error:
    print(error.exit_code, error)
print(any(name.startswith("tensorrt") for name in sys.modules))
"""
    for backend in ("tensorrt", "tensorrt_rtx"):
        command = [sys.executable, "-c", code, backend]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first.startswith(f"4 engine {backend}-fp32-sm86: expected an NVIDIA GPU that can be used, found none: ")
        assert second == "False"


def test_a_bundle_with_such_an_engine_is_refused_in_one_line(bundle: Bundle):
    if find_devices()[0]:
        pytest.skip("there is a device")
    about = replace(record(), variant_sha256=bundle.manifest.files["fp32.onnx"].sha256)
    with bundle.edit() as editor:
        editor.write("engines/e.engine", b"engine")
        editor.write_json("engines/e.json", about.to_json())
        editor.manifest.engines["tensorrt-fp32-sm86"] = EngineEntry("engines/e.engine", "engines/e.json", "fp32")
    with pytest.raises(BackendMissing, match="expected an NVIDIA GPU that can be used, found none"):
        load(bundle, "tensorrt-fp32-sm86")


def test_int8_falls_back_to_fp16_and_that_to_fp32(
    gpu: HostCuda, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    fp32, broken = bundle.variant_file("fp32"), tmp_path / "broken.onnx"
    model = onnx.load(fp32)
    (last,) = (item for item in model.graph.initializer if item.name == "fc.w")
    last.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(last), "fc.w"))
    onnx.save(model, broken)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(fp32, gpu, broken))
    about = replace(record(), variant_sha256=bundle.manifest.files["fp32.onnx"].sha256)
    with bundle.edit() as editor:
        for precision, blob in (("int8", b"broken"), ("fp16", b"broken"), ("fp32", b"engine")):
            name = f"tensorrt-{precision}-sm86"
            editor.write(f"engines/{name}.engine", blob)
            editor.write_json(f"engines/{name}.json", replace(about, id=name, precision=precision).to_json())
            editor.manifest.engines[name] = EngineEntry(f"engines/{name}.engine", f"engines/{name}.json", "fp32")
    with load(bundle, "tensorrt-int8-sm86", fallback=True) as session:
        assert session.record.id == "tensorrt-fp32-sm86"
        assert session.selftest is not None
        counted = session.fallbacks
    failed = ["tensorrt-int8-sm86", "tensorrt-fp16-sm86"]
    assert [text.split(":")[0] for text in counted] == [f"engine {name}" for name in failed]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split(" of ")[0] for text in warnings] == [f"engine {name}" for name in failed]
    with pytest.raises(CheckFailed, match="engine tensorrt-int8-sm86"):
        load(bundle, "tensorrt-int8-sm86")


class TestInstances:
    @pytest.fixture
    def with_engine(self, gpu: HostCuda, bundle: Bundle) -> Bundle:
        about = replace(record(), variant_sha256=bundle.manifest.files["fp32.onnx"].sha256)
        with bundle.edit() as editor:
            editor.write("engines/e.engine", b"engine")
            editor.write_json("engines/e.json", about.to_json())
            editor.manifest.engines[about.id] = EngineEntry("engines/e.engine", "engines/e.json", "fp32")
        return bundle

    def test_they_share_the_engine_and_have_contexts_of_their_own(self, with_engine: Bundle):
        images = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(60, 3))
        options = BatchOptions(max_batch_size=4)
        with Batcher.load(with_engine, "tensorrt-fp32-sm86", options, instances=3) as batcher:
            batcher.warm_up()
            assert sys.modules["tensorrt"].Runtime.loads == 1
            sessions = [session for session in batcher.sessions if isinstance(session, tensorrt.TensorRtSession)]
            assert len({id(session._engine) for session in sessions}) == 1
            assert len({session._runner.stream for session in sessions}) == 3
            assert all(session.selftest for session in sessions)
            stream = batcher.stream()
            futures = [stream.infer_async(images[index : index + 1]) for index in range(len(images))]
            logits = np.concatenate([future.result(60)["logits"] for future in futures])
        np.testing.assert_allclose(logits, tiny_bundle.reference(images), rtol=0, atol=1e-4)

    def test_one_goes_on_when_another_is_closed(self, with_engine: Bundle, gpu: HostCuda):
        batch = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(2))
        first = load(with_engine, "tensorrt-fp32-sm86")
        second = load_another(with_engine, first)
        first.close()
        np.testing.assert_allclose(second.infer(batch)["logits"], tiny_bundle.reference(batch), rtol=0, atol=1e-4)
        second.close()
        del first, second
        assert gpu.held == 0

    def test_requests_are_gathered_in_pinned_memory(self, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch):
        """Copied there once, and not again to memory of the session."""
        images = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(3, 3))
        options = BatchOptions(max_batch_size=4, max_queue_delay_microseconds=10**6, preferred_batch_size=(3,))
        seen: list[bool] = []

        def look(batch: np.ndarray, *_: object) -> None:
            seen.append(is_pinned(batch))

        sessions = [load(with_engine, "tensorrt-fp32-sm86")]
        with Batcher(sessions, options, after=look) as batcher:
            batcher.warm_up()
            monkeypatch.setattr(np, "copyto", None)  # any further host copy would fail
            stream = batcher.stream()
            futures = [stream.infer_async(images[index : index + 1]) for index in range(3)]
            logits = np.concatenate([future.result(60)["logits"] for future in futures])
        np.testing.assert_allclose(logits, tiny_bundle.reference(images), rtol=0, atol=1e-4)
        assert seen == [True]


def test_an_engine_that_may_use_tf32_is_held_to_the_row_of_tf32(
    gpu: HostCuda, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its double has weights with TF32's mantissa."""
    fp32, rounded = bundle.variant_file("fp32"), tmp_path / "rounded.onnx"
    model = onnx.load(fp32)
    for item in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(item)
        if weights.dtype == np.float32:
            bits = (weights.view(np.uint32) + np.uint32(1 << 12)) & ~np.uint32((1 << 13) - 1)
            item.CopyFrom(onnx.numpy_helper.from_array(bits.view(np.float32).reshape(weights.shape), item.name))
    onnx.save(model, rounded)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(fp32, gpu, rounded))
    sha256 = bundle.manifest.files["fp32.onnx"].sha256
    with bundle.edit() as editor:
        for target, options in (("sm86", {}), ("sm86+sm89", {"tf32": True})):
            about = replace(record(target=target, **options), variant_sha256=sha256)
            editor.write(f"engines/{about.id}.engine", b"broken")
            editor.write_json(f"engines/{about.id}.json", about.to_json())
            editor.manifest.engines[about.id] = EngineEntry(
                f"engines/{about.id}.engine", f"engines/{about.id}.json", "fp32"
            )
    with load(bundle, "tensorrt-fp32-sm86+sm89") as session:
        assert session.selftest is not None
        assert session.selftest.sqnr_db < 80
    with pytest.raises(CheckFailed, match=r"SQNR \d+\.\d dB < 80 dB"):
        load(bundle, "tensorrt-fp32-sm86")


def test_inspector_words_become_precisions():
    layers = {
        "Layers": [
            {"Name": "a", "Outputs": [{"Format/Datatype": "Channel major FP16 format"}]},
            {"Name": "b", "Outputs": [{"Format/Datatype": "Int8"}]},
            {"Name": "c", "Outputs": []},
            "d",
        ]
    }
    inspector = SimpleNamespace(get_engine_information=lambda _: json.dumps(layers))
    session = object.__new__(tensorrt.TensorRtSession)
    session._engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    session._trt = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON=1))
    contexts = {8: SimpleNamespace(context="context of batch 8")}
    session._runner = SimpleNamespace(slot=contexts.__getitem__)
    assert session._precisions(8) == {"a": "fp16", "b": "int8", "c": "unknown"}
    assert inspector.execution_context == "context of batch 8"
