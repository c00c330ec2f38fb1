"""What `deploy` compiles: engines that are what their names say, those that can't run here, and what was refused."""

import sys
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.benchmarks.deploy.engines import Engines, Wanted, compile_all
from resnetrt.bundle import Bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.engine_record import ParityNotRun
from resnetrt.errors import CheckFailed

CPU = ("onnxruntime", "openvino")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose INT8 variant for ONNX Runtime does five sixths of its work in FP32."""
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    tiny_bundle.plant_island(made, "int8.onnxruntime", "conv")
    return made


def test_an_engine_that_is_not_what_its_name_says_is_refused_and_the_others_are_kept(bundle: Bundle):
    lines: list[str] = []
    made = compile_all(bundle, Wanted(CPU), lines.append)
    assert made.engines == ["onnxruntime-fp32-cpu", "openvino-fp32-cpu", "openvino-int8-cpu"]
    assert sorted(bundle.manifest.engines) == made.engines
    (text,) = made.refused
    assert "found fp32 84.2%, int8 15.8%" in text
    assert text.endswith("--min-share 0")
    assert any(line.startswith("compile   onnxruntime int8 refused: engine onnxruntime-int8-cpu") for line in lines)
    assert any(line.endswith("from eager, 100.0% of its work in int8") for line in lines)


def test_it_can_be_kept_all_the_same(bundle: Bundle):
    made = compile_all(bundle, Wanted(CPU, min_share=0.0), lambda line: None)
    assert ("onnxruntime-int8-cpu" in made.engines, made.refused) == (True, [])
    assert bundle.read_engine("onnxruntime-int8-cpu").own_share == pytest.approx(0.158, abs=1e-3)


def test_with_nothing_left_the_first_refusal_is_the_error(bundle: Bundle):
    with pytest.raises(CheckFailed, match=r"at least 200.0% of the multiply-accumulates in fp32"):
        compile_all(bundle, Wanted(CPU, min_share=2.0), lambda line: None)


@pytest.fixture
def without_gpu() -> None:
    """Only where there is no GPU: with one, the engines run."""
    from resnetrt.runtime.cuda.device import find_devices

    pytest.importorskip("tensorrt_rtx")
    if find_devices()[0]:
        pytest.skip("a GPU is here")


def test_an_engine_of_tensorrt_rtx_is_built_and_said_to_be_not_run(bundle: Bundle, without_gpu: None):
    lines: list[str] = []
    made = compile_all(bundle, Wanted(), lines.append)
    assert list(made.not_run) == ["tensorrt_rtx-fp16-portable"]
    assert "no usable GPU" in made.not_run["tensorrt_rtx-fp16-portable"]
    assert made.engines[0] == "onnxruntime-fp32-cpu"
    record = bundle.read_engine("tensorrt_rtx-fp16-portable")
    assert isinstance(record.parity, ParityNotRun)
    assert record.own_share == 1.0
    said = "\n".join(lines)
    assert "tensorrt_rtx-fp16-portable, built, not run here (no usable GPU" in said
    assert "compile   tensorrt_rtx int8 left out: TensorRT-RTX runs each convolution" in said
    assert "compile   tensorrt left out: TensorRT builds on the GPU that the engine is for" in said


def test_fp8_is_made_only_if_asked_for_and_said_to_be_no_gain_until_it_is_measured(
    fashion_bundle: Bundle, without_gpu: None
):
    quantize_variant(fashion_bundle, "tensorrt", QuantizeOptions())
    lines: list[str] = []
    made = compile_all(fashion_bundle, Wanted(("tensorrt_rtx",), ("fp8",), "sm89"), lines.append)
    assert list(made.not_run) == ["tensorrt_rtx-fp8-sm89"], lines
    assert lines[-1].startswith(
        "note      tensorrt_rtx-fp8-sm89: TensorRT-RTX runs each convolution and what follows it"
    )
    assert lines[-1].endswith("so FP16 may well be faster: measure both on the GPU")


def test_without_tensorrt_rtx_the_engines_for_the_cpu_are_made_and_it_is_said(
    bundle: Bundle, without_gpu: None, monkeypatch: pytest.MonkeyPatch
):
    """As after `make quickstart RTX=`."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    lines: list[str] = []
    made = compile_all(bundle, Wanted(), lines.append)
    assert (made.engines[0], made.not_run, made.elsewhere) == ("onnxruntime-fp32-cpu", {}, [])
    (said,) = (line for line in lines if line.startswith("compile   tensorrt_rtx"))
    assert said.startswith("compile   tensorrt_rtx left out: ")
    assert "pip install" in said


def test_targets_and_profiles_go_to_tensorrt_only(bundle: Bundle, without_gpu: None):
    asked = Wanted(("onnxruntime", "tensorrt_rtx"), (), "sm89,sm86", {"profiles": "1:4:4"})
    made = compile_all(bundle, asked, lambda line: None)
    assert (made.engines, list(made.not_run)) == (["onnxruntime-fp32-cpu"], ["tensorrt_rtx-fp16-sm86+sm89"])
    profiles = bundle.read_engine("tensorrt_rtx-fp16-sm86+sm89").options["profiles"]
    assert [profile["max"][0] for profile in profiles] == [4]


def test_for_tensorrt_without_a_gpu_the_variants_are_made_and_the_next_command_is_said(
    bundle: Bundle, without_gpu: None
):
    lines: list[str] = []
    made = compile_all(bundle, Wanted(("tensorrt",), ("fp16", "int8")), lines.append)
    assert made == Engines(elsewhere=["tensorrt"])
    assert {"fp16", "int8.tensorrt.fp16"} <= bundle.manifest.variants.keys()
    assert lines[-1].startswith(f"next      resnetrt package device {bundle.path} --for tensorrt ")


def test_without_tensorrt_rtx_and_a_gpu_its_variants_are_made_too(
    bundle: Bundle, without_gpu: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    made = compile_all(bundle, Wanted(("tensorrt_rtx",), ("fp16",)), lambda line: None)
    assert made == Engines(elsewhere=["tensorrt_rtx"])
    assert "fp16" in bundle.manifest.variants
