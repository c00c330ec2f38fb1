"""What ONNX Runtime's GPU providers are told: names of a real library, files per content; no provider ran on a GPU."""

import json
from pathlib import Path

import onnxruntime_gpu_double
import pytest

from resnetrt.bundle import Bundle
from resnetrt.engine_record import NotRun
from resnetrt.errors import UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines.compile import check_request, choose_variant, compile_variant
from resnetrt.runtime import load
from resnetrt.runtime.backends.onnxruntime_providers import CUDA, TENSORRT, provider_options

KNOWN = {
    name: set(text.split())
    for name, text in json.loads(Path(__file__).with_name("onnxruntime_gpu_options.json").read_text()).items()
}
PROFILE = {"input": "input", "min": [1, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [32, 3, 16, 16]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> onnxruntime_gpu_double.Asked:
    """ONNX Runtime as if it had all its providers, but on the CPU; what each session was asked for."""
    return onnxruntime_gpu_double.install(monkeypatch)


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_every_option_is_one_of_the_library(tmp_path: Path, provider: str):
    (tmp_path / "m.onnx").write_bytes(b"x")
    options = provider_options(provider, tmp_path / "m.onnx", "int8", "1.31.1", [PROFILE])
    assert options
    assert options.keys() <= KNOWN[provider]
    assert all(isinstance(value, str) for value in options.values())


def test_an_engine_is_never_taken_from_a_file_with_other_weights(tmp_path: Path, home: Path):
    path, seen = tmp_path / "m.onnx", set()
    for content, precision, version in (
        (b"a", "fp16", "1.31.1"), (b"b", "fp16", "1.31.1"), (b"b", "int8", "1.31.1"), (b"b", "int8", "1.32.0"),
    ):  # fmt: skip
        path.write_bytes(content)
        options = provider_options(TENSORRT, path, precision, version)
        assert options == provider_options(TENSORRT, path, precision, version)
        assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("True", "True")
        seen.add(options["trt_engine_cache_path"])
    assert len(seen) == 4
    assert all(Path(folder).is_dir() and home in Path(folder).parents for folder in seen)


def test_without_a_writable_home_nothing_is_kept(tmp_path: Path, home: Path):
    (home / ".cache").write_text("a file where the folder would be")
    (tmp_path / "m.onnx").write_bytes(b"x")
    options = provider_options(TENSORRT, tmp_path / "m.onnx", "fp16", "1.31.1")
    assert options == {"trt_fp16_enable": "True", "trt_int8_enable": "False"}


def test_int8_for_the_tensorrt_provider_is_in_tensorrts_dialect_over_fp16(
    bundle: Bundle, asked: list[dict[str, dict[str, str]]]
):
    variant = choose_variant(bundle, "onnxruntime", "int8", target="trt-ep")
    assert variant == "int8.tensorrt.fp16"
    name = compile_variant(bundle, variant, "onnxruntime", "trt-ep")
    assert name == "onnxruntime-int8-trt-ep"
    record = bundle.read_engine(name)
    assert (record.dialect, record.options["profiles"]) == ("tensorrt", [PROFILE])
    told = asked[-1][TENSORRT]
    assert (told["trt_fp16_enable"], told["trt_int8_enable"]) == ("True", "True")
    assert told["trt_profile_min_shapes"] == "input:1x3x16x16"
    assert told["trt_profile_opt_shapes"] == "input:8x3x16x16"
    assert told["trt_profile_max_shapes"] == "input:32x3x16x16"
    assert asked[-1][CUDA] == {"use_tf32": "0"}
    with load(bundle, name) as session:
        assert session.batch_limits == (1, 32)
    assert asked[-1][TENSORRT] == told
    assert len(asked) == 3  # compiled, checked and loaded: the audit builds nothing
    assert isinstance(record.audit, NotRun)
    assert "does not show the graph" in record.audit.reason


def test_other_targets_keep_their_dialect(bundle: Bundle):
    assert choose_variant(bundle, "onnxruntime", "int8", target="cpu") == "int8.onnxruntime"
    assert choose_variant(bundle, "onnxruntime", "int8") == "int8.onnxruntime"


def test_int8_on_cuda_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"its CUDA provider has no integer convolution.*--target trt-ep"):
        check_request("onnxruntime", "int8", "cuda", {})
    with pytest.raises(UsageError, match="no integer convolution"):
        find_compiler("onnxruntime").compile_engine(Path("int8.onnx"), "int8", "cuda", {})
