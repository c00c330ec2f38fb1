"""TensorRT's log as one exception, its layer lines, and what full TensorRT refuses; no TensorRT is needed."""

from pathlib import Path

import pytest
from host_cuda import HostCuda

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.compilers.tensorrt import compiler as tensorrt_compiler
from resnetrt.export.compilers.tensorrt import flavour as tensorrt_flavour
from resnetrt.export.compilers.tensorrt.flavour import (
    FULL,
    capabilities,
    obstacle,
    resolve_full_target,
    resolve_rtx_target,
)
from resnetrt.export.compilers.tensorrt.layers import EngineLayer, LayerTensor, parse_layers
from resnetrt.export.compilers.tensorrt.log import build_error, node_in, require_no_error
from resnetrt.export.compilers.tensorrt.options import TensorRTOptions
from resnetrt.export.compilers.tensorrt.refuse import refuse_options
from resnetrt.runtime.backends.tensorrt_logger import clean, first_error
from resnetrt.runtime.cuda.device import Device

DRIVER = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In f at /_src/x.cpp:1 (cudaError 35))"
TURING = (
    "Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot compile operation 'fc.1' for Turing "
    "(SM75): FP32 GEMM is not supported. )"
)
LINE = (
    "Layers:\n"
    "Name: conv_myl0_5, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [-1,16,28,28], Strides: [1,2], "
    "StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: w, "
    "Dimensions: [16,16,3,3], Strides: [1], StrideOrder: [0], Datatype: Int8, Format: (Linear) x }], Outputs: [ { "
    "Name: b, Dimensions: [-1,16,28,28], Strides: [1], StrideOrder: [0], Datatype: Float, Format: x }], "
    "TacticName: t_0x1, StreamId: 0, Metadata: [ONNX Layer: conv][ONNX Layer: relu][ONNX Layer: conv]\n"
    "Name: shape_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
    "Metadata: "
)


class TestErrors:
    def test_the_first_error_counts(self):
        assert first_error([(3, "info"), (2, "warning"), (1, "first"), (1, DRIVER)]) == "first"
        assert first_error([(3, "info"), (2, "warning")]) == ""

    def test_source_positions_are_left_out(self):
        assert clean(DRIVER) == "Cuda Runtime (cudaError 35))"
        assert clean(f"the first one {DRIVER}") == "the first one"
        assert "\n" not in clean("a\n b\n\tc")

    def test_the_node_is_named_and_advice_given(self):
        error = build_error([(1, TURING), (1, DRIVER)], "fp32.onnx", "building", ["fc", "fc.1", "conv"])
        assert isinstance(error, UsageError)
        assert str(error).startswith("fp32.onnx: building failed (ONNX node fc.1): Myelin")
        assert str(error).endswith("choose --precision fp16, or leave sm75 out of --target")

    def test_an_unknown_error_is_a_failed_check(self):
        assert isinstance(build_error([(1, "whatever")], "x.onnx", "building"), CheckFailed)
        assert "gave no reason" in str(build_error([], "x.onnx", "building"))

    def test_an_error_that_a_call_hid_is_raised(self):
        with pytest.raises(CheckFailed, match=r"x\.onnx: configuring failed: setter did not"):
            require_no_error([(1, "setter did not")], "x.onnx", "configuring")
        require_no_error([(2, "only a warning")], "x.onnx", "configuring")

    def test_names_are_whole_words(self):
        assert node_in("operation 'stages.0.1.conv1.conv' failed", ["conv", "stages.0.1.conv1.conv"]) == (
            "stages.0.1.conv1.conv"
        )
        assert node_in("operation 'convolution'", ["conv"]) == ""


def test_layers_are_read_from_the_log():
    conv, shape = parse_layers(text for text in ["Engine built", LINE])
    assert (conv.name, conv.type, conv.tactic, conv.onnx) == ("conv_myl0_5", "correlation", "t_0x1", ("conv", "relu"))
    assert conv.inputs == (LayerTensor("a", "fp16", (-1, 16, 28, 28)),)
    assert conv.constants == (LayerTensor("w", "int8", (16, 16, 3, 3)),)
    assert conv.outputs == (LayerTensor("b", "fp32", (-1, 16, 28, 28)),)
    assert (shape.type, shape.inputs, shape.onnx) == ("shape_call", (), ())
    assert EngineLayer.from_json(conv.to_json()) == conv
    assert parse_layers(["Layer(Myelin): {ForeignNode[a...b]}"]) == []


class TestFull:
    @pytest.fixture(autouse=True)
    def hopper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine with an H100."""
        monkeypatch.setattr(tensorrt_flavour, "find_devices", lambda: ((Device(0, (9, 0)),), ""))

    def test_the_target_is_the_gpu_here(self):
        assert resolve_full_target(None) == resolve_full_target("sm90") == "sm90"
        assert capabilities("sm90") == [90]
        with pytest.raises(UsageError, match="builds for the GPU that it sees: expected target sm90, found sm86"):
            resolve_full_target("sm86")

    def test_of_several_gpus_it_is_the_chosen_one(self, monkeypatch: pytest.MonkeyPatch):
        """TensorRT builds for one device: an engine for another must be refused before the build."""
        devices = Device(0, (8, 6)), Device(1, (8, 9), "NVIDIA L4")
        monkeypatch.setattr(tensorrt_flavour, "find_devices", lambda: (devices, ""))
        refusal = r"expected target sm86, found sm89; that is device 1 \(NVIDIA L4, sm89\): add --device 1$"
        with pytest.raises(UsageError, match=refusal):
            resolve_full_target("sm89")
        assert resolve_full_target("auto") == resolve_rtx_target("auto") == "sm86"
        monkeypatch.setenv("RESNETRT_DEVICE", "1")
        assert resolve_full_target("auto") == resolve_full_target(None) == resolve_full_target("sm89") == "sm89"
        assert resolve_rtx_target("auto") == "sm89"
        assert obstacle(FULL, "sm89") == ""
        assert "this GPU is sm89" in obstacle(FULL, "sm86")

    def test_it_is_built_on_that_one(self, monkeypatch: pytest.MonkeyPatch):
        """TensorRT builds on the device that is the thread's current one."""
        devices, cuda, opened = (Device(0, (8, 6)), Device(1, (8, 9))), HostCuda(), []
        monkeypatch.setattr(tensorrt_flavour, "find_devices", lambda: (devices, ""))
        monkeypatch.setattr(tensorrt_flavour, "open_cuda", lambda _, index: (opened.append(index), cuda)[1])
        monkeypatch.setattr(tensorrt_compiler, "build_engine", lambda *_: cuda.require_current("build"))
        monkeypatch.setenv("RESNETRT_DEVICE", "1")
        tensorrt_compiler.full.compile_engine(Path("x.onnx"), "fp32", "sm89", {})
        assert opened == [1]

    def test_an_engine_for_it_runs_here_and_one_of_rtx_does_not(self):
        assert obstacle(FULL, "sm90") == ""
        assert "this GPU is sm90" in obstacle(FULL, "sm86")
        assert "does not run on this GPU (sm90)" in obstacle(tensorrt_flavour.RTX, "portable")

    @pytest.mark.parametrize(
        ("options", "precision", "message"),
        [
            ({"dla_core": 0}, "fp32", "the DLA computes in fp16 and int8, not in fp32"),
            ({"dla_core": 0}, "fp16", "the DLA takes one fixed batch"),
            ({"dla_core": 0, "profiles": "8,16"}, "int8", "the DLA takes one fixed batch"),
            ({"dla_core": 0, "profiles": "8", "hardware_compatible": "ampere_plus"}, "int8", "can't use the DLA"),
        ],
    )
    def test_what_it_refuses(self, options: dict[str, object], precision: str, message: str):
        with pytest.raises(UsageError, match=message):
            refuse_options(FULL, TensorRTOptions.from_mapping("tensorrt", options), precision, "x.onnx")

    @pytest.mark.parametrize(
        "options",
        [
            {"dla_core": 0, "gpu_fallback": True, "profiles": "8"},
            {"version_compatible": True, "timing_cache": "cache.bin"},
            {"hardware_compatible": "same_compute_capability", "tf32": True},
        ],
    )
    def test_what_it_takes(self, options: dict[str, object]):
        refuse_options(FULL, TensorRTOptions.from_mapping("tensorrt", options), "fp16", "x.onnx")
