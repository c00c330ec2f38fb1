"""`resnetrt compile`: exit codes and what is printed, mostly with TensorRT-RTX."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.cli import cli, run
from resnetrt.engine_record import BuiltOnGpu
from resnetrt.errors import UsageError
from resnetrt.export.compilers.engine import MIN_SHARE
from resnetrt.runtime.cuda.device import Device, find_devices

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")
needs_no_rtx = pytest.mark.skipif(HAS_RTX, reason="tensorrt-rtx is installed")


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(tiny_bundle.make_bundle(tmp_path / "tiny.bundle").path)


def compile_rtx(bundle: str, *arguments: str) -> int:
    return run(["compile", bundle, "--backend", "tensorrt_rtx", *arguments])


@pytest.mark.parametrize(("device", "visible"), [("1", None), ("MIG-7777", "MIG-7777")])
def test_the_device_is_set_for_the_command_and_its_processes(
    bundle: str, monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None
):
    """A MIG instance must be in CUDA's own variable before anything of CUDA starts."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen: list[str | None] = []

    def look(*_: object) -> None:
        seen.extend(map(os.environ.get, ("RESNETRT_DEVICE", "CUDA_VISIBLE_DEVICES")))

    monkeypatch.setattr("resnetrt.export.engines.compile.check_request", look)
    assert run(["compile", bundle, "--backend", "onnxruntime", "--precision", "fp32", "--device", device]) == 0
    assert seen == [device, visible]
    assert not {"RESNETRT_DEVICE", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} & set(os.environ)


def test_the_number_of_a_device_is_nvidia_smis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """CUDA's own order is the fastest first, so another GPU would be taken where they differ."""
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    seen: list[str | None] = []
    monkeypatch.setattr(Bundle, "open", lambda _: seen.append(os.environ.get("CUDA_DEVICE_ORDER")))
    for own in (None, "FASTEST_FIRST"):
        if own:
            monkeypatch.setenv("CUDA_DEVICE_ORDER", own)
        run(["compile", str(tmp_path), "--backend", "tensorrt", "--precision", "fp16", "--device", "1"])
    assert seen == ["PCI_BUS_ID", "FASTEST_FIRST"]


@needs_rtx
def test_the_gpu_of_the_build_is_in_the_sidecar(bundle: str, monkeypatch: pytest.MonkeyPatch):
    gpu = Device(0, (8, 6), "NVIDIA A10", driver="550.54")
    monkeypatch.setattr("resnetrt.export.engines.compile.find_devices", lambda: ((gpu,), ""))
    assert compile_rtx(bundle, "--precision", "fp32", "--target", "sm86", "--profiles", "1:4:8") == 0
    built_on = Bundle.open(bundle).read_engine("tensorrt_rtx-fp32-sm86").built_on
    assert built_on is not None
    assert built_on.gpu == BuiltOnGpu("NVIDIA A10", "550.54")


@needs_rtx
def test_the_cast_is_made_and_the_missing_parity_is_said(bundle: str, capsys: pytest.CaptureFixture[str]):
    arguments = ("--precision", "fp16", "--target", "sm86,sm89", "--profiles", "1:4:8")
    assert compile_rtx(bundle, *arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tensorrt_rtx-fp16-sm86+sm89: ")
    if not find_devices()[0]:
        assert "parity not run (no usable GPU: " in printed
        assert "its variant: SQNR " in printed


@needs_rtx
def test_json_has_the_sidecar(bundle: str, capsys: pytest.CaptureFixture[str]):
    assert compile_rtx(bundle, "--precision", "fp32", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["engine"] == "tensorrt_rtx-fp32-portable"
    assert record["sidecar"]["tensorrt"]["profiles"][1]["opt"] == [8, 3, 16, 16]


@needs_rtx
def test_check_builds_nothing(bundle: str, capsys: pytest.CaptureFixture[str]):
    assert compile_rtx(bundle, "--variant", "fp32", "--check") == 0
    assert capsys.readouterr().out == "fp32.onnx: tensorrt_rtx takes every node\n"
    assert not (Path(bundle) / "engines").exists()


@needs_rtx
def test_check_names_what_is_refused(bundle: str, capsys: pytest.CaptureFixture[str]):
    assert compile_rtx(bundle, "--variant", "int8.cpu", "--check") == 1
    printed = capsys.readouterr()
    assert "(DequantizeLinear): " in printed.out
    assert "cudaError" not in printed.out
    assert "tensorrt_rtx does not take" in printed.err


@needs_rtx
def test_check_of_several_precisions_asks_about_each_and_is_one_object(bundle: str, capsys: pytest.CaptureFixture[str]):
    assert compile_rtx(bundle, "--precision", "fp32,fp16", "--check", "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(row["file"], row["unsupported"]) for row in files] == [("fp32.onnx", []), ("fp16.onnx", [])]


def test_check_needs_a_parser(bundle: str, capsys: pytest.CaptureFixture[str]):
    assert run(["compile", bundle, "--backend", "openvino", "--precision", "fp32", "--check"]) == 2
    assert "--check: expected a backend of TensorRT (tensorrt, tensorrt_rtx), found openvino" in capsys.readouterr().err


@needs_rtx
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--precision", "fp32", "--target", "sm75"), 2, "7.5 (Turing) has no FP32"),
        (("--precision", "fp16", "--target", "sm90"), 2, "does not support sm90"),
        (("--precision", "fp16", "--profiles", "8:4:2"), 2, "expected min <= opt <= max"),
        (("--precision", "fp16", "--version-compatible"), 2, "needs the lean runtime"),
        (("--variant", "int8.tensorrt"), 4, "with: resnetrt quantize BUNDLE --dialect tensorrt"),
    ],
)
def test_what_can_not_be_built_is_one_line(
    bundle: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
):
    assert compile_rtx(bundle, *arguments) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_zero_is_an_option_that_is_given(bundle: str, monkeypatch: pytest.MonkeyPatch):
    import resnetrt.export.engines.compile

    seen = {}

    def remember(*arguments: object, **_: object) -> str:
        seen.update(arguments[-1])  # type: ignore[call-overload]
        raise UsageError("seen")

    monkeypatch.setattr(resnetrt.export.engines.compile, "compile_variant", remember)
    zeros = ("--dla-core", "0", "--builder-optimization-level", "0", "--workspace-mib", "0")
    assert compile_rtx(bundle, "--variant", "fp32", *zeros) == 2
    assert seen == {"dla_core": 0, "builder_optimization_level": 0, "workspace_mib": 0}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("onnxruntime", "fp16"), 2, "onnxruntime on cpu: expected precision fp32, int8, found fp16"),
        (("openvino", "bf16", "--target", "gpu"), 2, "unknown openvino target 'gpu'"),
        (("openvino", "fp16", "--tf32"), 2, "unknown option of openvino 'tf32'"),
        (("tensorrt_rtx", "fp16", "--dla-core", "0"), 2, "TensorRT-RTX has no DLA"),
        (("tensorrt_rtx", "fp4"), 2, "expected precision bf16, fp16, fp32, fp8, int8, found fp4"),
        pytest.param(("tensorrt_rtx", "bf16"), 4, "tensorrt_rtx is not installed", marks=needs_no_rtx),
    ],
)
def test_what_can_not_be_compiled_leaves_no_cast(
    bundle: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
):
    before = (Path(bundle) / "manifest.json").read_bytes()
    backend, precision, *options = arguments
    assert run(["compile", bundle, "--backend", backend, "--precision", precision, *options]) == code
    assert message in capsys.readouterr().err
    assert (Path(bundle) / "manifest.json").read_bytes() == before


def test_an_engine_that_does_not_run_as_it_is_called_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    tiny_bundle.plant_island(made, "int8.onnxruntime", "conv")
    arguments = ["compile", str(made.path), "--backend", "onnxruntime", "--precision", "int8"]
    assert run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "found fp32 84.2%, int8 15.8%; first of 1 elsewhere: conv (fp32)" in line
    assert not (made.path / "engines").exists()
    assert run([*arguments, "--min-share", "0.15"]) == 0
    assert capsys.readouterr().out.endswith("golden images, 84.2% of the work in fp32, 15.8% of the work in int8\n")


@pytest.mark.parametrize("command", ["compile", "deploy"])
def test_the_least_share_is_the_compilers(command: str):
    """The command line can't read it there without numpy."""
    (option,) = (item for item in cli.get_command(None, command).params if item.name == "min_share")
    assert option.default == MIN_SHARE
