"""What full TensorRT's builder is asked, in the names of each version; not run on a GPU, nor with the library."""

import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorrt_double import LISTS, FullTensorRT

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.export.compilers.engine import CompiledEngine
from resnetrt.export.compilers.tensorrt import flavour as tensorrt_flavour
from resnetrt.runtime.cuda.device import Device

Build = Callable[..., CompiledEngine]
CONVOLUTION = {
    "Name": "stem + stem.relu",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "input", "Dimensions": [8, 3, 16, 16], "Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Name": "r", "Dimensions": [8, 16, 16, 16], "Format/Datatype": "Row major linear FP32"}],
    "Weights": {"Type": "Float", "Count": 432},
    "TacticName": "sm80_xmma_fprop",
    "Metadata": "[ONNX Layer: stem]\u001e[ONNX Layer: stem.relu]",
}


@pytest.fixture(params=LISTS, ids=lambda path: path.stem)
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FullTensorRT:
    """A machine with an sm86 and a TensorRT of that version."""
    made = FullTensorRT(request.param)
    monkeypatch.setattr(tensorrt_flavour, "find_devices", lambda: ((Device(0, (8, 6), "NVIDIA A10"),), ""))
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    return made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def build(full: FullTensorRT, tiny_fp32: Path) -> Build:
    def run(precision: str = "fp32", **options: object) -> CompiledEngine:
        return find_compiler("tensorrt").compile_engine(tiny_fp32, precision, "sm86", options)

    return run


def flags(full: FullTensorRT) -> set[str]:
    return {flag.name for flag in full.flags}


def test_there_are_five_versions():
    assert [path.stem.removeprefix("tensorrt-") for path in LISTS] == ["10.16", "10.3", "10.9", "11.0", "11.4"]


class TestOptions:
    def test_the_default_asks_for_nothing_but_detailed_layers(self, full: FullTensorRT, build: Build):
        engine = build()
        assert flags(full) == set()
        assert full.config.profiling_verbosity.name == "DETAILED"
        one, eight, most = ((batch, 3, 16, 16) for batch in (1, 8, 32))
        assert full.profiles == [("input", one, one, one), ("input", one, eight, most)]
        assert engine.details["tensorrt"]["compute_capabilities"] == [86]
        assert (engine.blob, engine.tools) == (b"plan", {"tensorrt": full.module.__version__})

    @pytest.mark.parametrize(
        ("version", "precision"),
        [("10.3.0", "fp16"), ("10.7.0.23", "fp16"), ("11.4.1.5", "fp16"), ("11.5.0", "int8")],
    )
    def test_the_dla_with_gpu_fallback(self, full: FullTensorRT, build: Build, version: str, precision: str):
        full.module.__dict__["__version__"] = version
        engine = build(precision, dla_core=1, gpu_fallback=True, profiles="8")
        assert (full.config.default_device_type.name, full.config.DLA_core) == ("DLA", 1)
        assert flags(full) == {"GPU_FALLBACK"}
        assert (engine.options["dla_core"], engine.options["gpu_fallback"]) == (1, True)

    @pytest.mark.parametrize(
        ("version", "precision", "reason"),
        [
            (
                "10.3.0",
                "int8",
                r"the DLA of TensorRT 10\.3\.0 takes INT8 by a calibration cache only.*fp16",
            ),
            ("10.8.0.43", "fp16", r"TensorRT 10\.8\.0\.43 has no DLA: it was in 10\.7 and before, and is in 11\.4"),
            ("11.4.0.106", "int8", r"TensorRT 11\.4\.0\.106 has no DLA"),
        ],
    )
    def test_a_version_whose_dla_can_not(
        self, full: FullTensorRT, build: Build, version: str, precision: str, reason: str
    ):
        full.module.__dict__["__version__"] = version
        with pytest.raises(UsageError, match=reason):
            build(precision, dla_core=0, profiles="8")

    def test_version_compatible_and_tf32(self, full: FullTensorRT, build: Build):
        engine = build(version_compatible=True, tf32=True)
        wanted = {"VERSION_COMPATIBLE", "TF32"}
        assert flags(full) == wanted
        assert set(engine.details["tensorrt"]["flags"]) == wanted

    @pytest.mark.parametrize("level", ["ampere_plus", "same_compute_capability"])
    def test_hardware_compatible_engines(self, full: FullTensorRT, build: Build, level: str):
        if (level, full.module.__version__) == ("same_compute_capability", "10.3.0"):
            with pytest.raises(UsageError, match=r"needs TensorRT 10\.9 or newer, this is 10\.3\.0; choose"):
                build(hardware_compatible=level)
            return
        engine = build(hardware_compatible=level)
        assert full.config.hardware_compatibility_level.name == level.upper()
        assert engine.options["hardware_compatible"] == level

    def test_workspace_and_level(self, full: FullTensorRT, build: Build):
        build(workspace_mib=64, builder_optimization_level=4)
        assert {pool.name: size for pool, size in full.memory.items()} == {"WORKSPACE": 64 << 20}
        assert full.config.builder_optimization_level == 4

    def test_sparse_weights(self, full: FullTensorRT, build: Build):
        full.kernel[:, ::2] = 0
        engine = build("fp16", sparse_weights=True)
        assert flags(full) == {"SPARSE_WEIGHTS"}
        about = engine.details["tensorrt"]
        assert (about["flags"], about["sparse_layers"], about["layers_with_weights"]) == (["SPARSE_WEIGHTS"], 1, 1)
        assert engine.options["sparse_weights"]

    def test_sparse_weights_that_would_have_no_effect(self, build: Build):
        with pytest.raises(UsageError, match=r"has no effect: expected layers with two zeros in each four.*among 1; "):
            build("fp16", sparse_weights=True)

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
    def test_sparse_weights_at_a_precision_without_such_kernels(self, build: Build, precision: str):
        with pytest.raises(UsageError, match=f"documents sparse kernels for fp16 and int8, not for {precision}"):
            build(precision, sparse_weights=True)

    def test_aux_streams(self, full: FullTensorRT, build: Build):
        engine = build(aux_streams=0)
        assert (full.config.max_aux_streams, engine.options["aux_streams"]) == (0, 0)

    def test_an_option_that_no_runtime_acts_on_is_unknown(self, build: Build):
        for name in ("refit", "weight_streaming"):
            with pytest.raises(UsageError, match=f"unknown option of tensorrt '{name}'"):
                build(**{name: True})


class TestTimingCache:
    def test_a_named_file_is_read_and_updated(self, full: FullTensorRT, build: Build, tmp_path: Path):
        path = tmp_path / "cache.bin"
        build(timing_cache=str(path))
        assert (full.cache_read, path.read_bytes()) == (b"", b"sm86:a")
        full.timing = b"b"
        build(timing_cache=str(path))
        assert path.read_bytes() == b"sm86:a,b"

    def test_by_default_it_is_the_users_for_this_version_and_gpu(self, full: FullTensorRT, build: Build, home: Path):
        build()
        assert [path.name for path in home.rglob("*.timings")] == [f"{full.module.__version__}-sm86-NVIDIA-A10.timings"]
        full.timing = b"b"
        build()
        assert next(home.rglob("*.timings")).read_bytes() == b"sm86:a,b"

    def test_none_is_none(self, full: FullTensorRT, build: Build, home: Path):
        build(timing_cache="none")
        assert (full.cache_read, list(home.rglob("*.timings"))) == (None, [])

    def test_a_named_file_of_another_gpu_is_refused_and_kept(self, build: Build, tmp_path: Path):
        (tmp_path / "cache.bin").write_bytes(b"sm89:x")
        with pytest.raises(UsageError, match=r"cache\.bin: expected a cache of this TensorRT and GPU"):
            build(timing_cache=str(tmp_path / "cache.bin"))
        assert (tmp_path / "cache.bin").read_bytes() == b"sm89:x"

    def test_the_users_own_of_another_gpu_is_started_anew(self, full: FullTensorRT, build: Build, home: Path):
        build()
        path = next(home.rglob("*.timings"))
        path.write_bytes(b"sm89:x")
        assert build().blob == b"plan"
        assert path.read_bytes() == b"sm86:a"

    @pytest.mark.parametrize("named", [True, False])
    def test_two_builds_at_once_lose_nothing(
        self, full: FullTensorRT, build: Build, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
    ):
        options = {"timing_cache": str(tmp_path / "cache.bin")} if named else {}
        other = FullTensorRT(full.api)
        other.timing = b"b"

        def build_the_other() -> None:
            with monkeypatch.context() as patched:
                patched.setitem(sys.modules, "tensorrt", other.module)
                build(**options)

        full.building = build_the_other
        build(**options)
        path = tmp_path / "cache.bin" if named else next(home.rglob("*.timings"))
        assert path.read_bytes() == b"sm86:a,b"

    def test_a_build_waits_for_another_that_writes(self, full: FullTensorRT, build: Build, tmp_path: Path):
        """As a second process does, which has the lock between reading the file and replacing it."""
        path, built = tmp_path / "cache.bin", threading.Event()
        full.building = built.set
        with (tmp_path / ".cache.bin.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread = threading.Thread(target=build, kwargs={"timing_cache": str(path)})
            thread.start()
            assert built.wait(30)
            thread.join(0.5)
            assert not path.exists()
            path.write_bytes(b"sm86:b")
        thread.join(30)
        assert path.read_bytes() == b"sm86:a,b"

    def test_a_file_is_replaced_and_never_written_into(self, full: FullTensorRT, build: Build, tmp_path: Path):
        """Who reads meanwhile, and a power cut, see the old content or the new one."""
        path = tmp_path / "cache.bin"
        build(timing_cache=str(path))
        os.link(path, tmp_path / "old")
        full.timing = b"b"
        build(timing_cache=str(path))
        assert ((tmp_path / "old").read_bytes(), path.read_bytes()) == (b"sm86:a", b"sm86:a,b")

    def test_a_home_that_can_not_be_written_stops_no_build(self, build: Build, home: Path):
        (home / ".cache").write_text("a file where the folder would be")
        assert build().blob == b"plan"


class TestTuring:
    """A T4: TensorRT has FP32 kernels for it, which TensorRT-RTX lacks, and neither has BF16."""

    @pytest.fixture(autouse=True)
    def turing(self, full: FullTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_flavour, "find_devices", lambda: ((Device(0, (7, 5)),), ""))

    def test_fp32_is_built(self, tiny_fp32: Path):
        assert find_compiler("tensorrt").compile_engine(tiny_fp32, "fp32", "sm75", {}).blob == b"plan"

    def test_bf16_is_refused_without_talk_of_targets(self, full: FullTensorRT, tiny_fp32: Path):
        full.dtype = "BF16"
        with pytest.raises(UsageError, match=r"BF16 needs .* 8\.0 or newer, and layer stem is bf16; choose"):
            find_compiler("tensorrt").compile_engine(tiny_fp32, "bf16", "sm75", {})

    def test_an_engine_for_ampere_and_newer_is_refused(self, tiny_fp32: Path):
        with pytest.raises(UsageError, match=r"ampere_plus is built on compute capability 8\.0 and newer, .* is sm75"):
            find_compiler("tensorrt").compile_engine(tiny_fp32, "fp32", "sm75", {"hardware_compatible": "ampere_plus"})

    def test_sparse_kernels_are_not_there(self, full: FullTensorRT, tiny_fp32: Path):
        full.kernel[:] = 0
        with pytest.raises(
            UsageError, match=r"sparse_weights needs compute capability 8\.0 or newer, this GPU is sm75"
        ):
            find_compiler("tensorrt").compile_engine(tiny_fp32, "fp16", "sm75", {"sparse_weights": True})

    def test_a_portable_engine_of_rtx_does_not_run_there(self):
        assert "compile with --target sm75" in find_compiler("tensorrt_rtx").obstacle("portable")
        assert find_compiler("tensorrt_rtx").obstacle("sm75+sm86") == ""


class TestFailures:
    def test_a_flag_that_is_not_taken(self, full: FullTensorRT, build: Build):
        full.refused = "VERSION_COMPATIBLE"
        with pytest.raises(CheckFailed, match="did not take the builder flag"):
            build(version_compatible=True)

    def test_a_setter_that_only_logs(self, full: FullTensorRT, build: Build):
        full.errors = ("Error Code 3: API Usage Error (no such DLA core)", "a second, misleading line")
        with pytest.raises(CheckFailed, match=r"configuring the build failed: API Usage Error \(no such DLA core\)$"):
            build()

    def test_no_plan(self, full: FullTensorRT, build: Build):
        full.plan = None
        with pytest.raises(CheckFailed, match="building failed: TensorRT gave no reason"):
            build()

    def test_an_engine_that_does_not_load(self, full: FullTensorRT, build: Build):
        full.loads = False
        with pytest.raises(CheckFailed, match="inspecting the engine failed"):
            build()


class TestInspector:
    def test_layers_are_the_inspectors_at_the_most_likely_shape(self, full: FullTensorRT, build: Build):
        full.inspector_text = json.dumps({"Layers": [CONVOLUTION], "Bindings": ["input", "logits"]})
        engine = build(profiles="1:8:32,64")
        stored = engine.companions["layers.json"]
        assert stored["source"] == f"engine inspector of tensorrt {full.module.__version__}"
        (layer,) = stored["layers"]
        assert (layer["onnx"], layer["constants"][0]["dtype"]) == (("stem", "stem.relu"), "fp32")
        assert full.shapes == [("input", (8, 3, 16, 16)), ("input", (64, 3, 16, 16))]
        assert full.inspected_with is not None  # without a context with shapes it tells no formats
        assert engine.details["tensorrt"]["engine_layers"] == 1

    def test_each_profile_is_inspected_at_its_own_shape(self, full: FullTensorRT, build: Build):
        later = json.loads(json.dumps(CONVOLUTION).replace('"input"', '"input [profile 1]"'))
        full.inspector_text = json.dumps({"Layers": [CONVOLUTION, later | {"Name": "stem + stem.relu [profile 1]"}]})
        layers = build().companions["layers.json"]["layers"]
        assert full.shapes == [("input", (1, 3, 16, 16)), ("input", (8, 3, 16, 16))]
        assert [(layer["profile"], layer["inputs"][0]["dtype"]) for layer in layers] == [(0, "fp32"), (1, "fp32")]

    @pytest.mark.parametrize("text", ['{"Layers": ["stem + stem.relu"]}', "no JSON", "[]"])
    def test_names_alone_are_no_layers(self, full: FullTensorRT, build: Build, text: str):
        full.inspector_text = text
        stored = build().companions["layers.json"]
        assert (stored["source"].partition(" of ")[0], stored["layers"]) == ("build log", [])
